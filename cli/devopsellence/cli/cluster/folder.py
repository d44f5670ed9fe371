"""The folder in which an operator keeps a cluster's authority and what it issued, readable by its owner alone."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devopsellence.cli.output import CliError
from devopsellence.cli.util.files import state_home, write_atomic


@dataclass(frozen=True)
class CertificateBundle:
    """What one party needs to take part: the authority's certificate, its own, and its key. The same names for all."""

    root: Path

    @property
    def authority(self) -> Path:
        return self.root / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.root / "tls.crt"

    @property
    def key(self) -> Path:
        return self.root / "tls.key"

    def settings_file(self, program: str) -> Path:
        """The variables that ``program`` (etcd, controller, agent) is started with."""
        return self.root / f"{program}.env"


@dataclass(frozen=True)
class ClusterFolder:
    """The paths below ``root``."""

    root: Path

    @classmethod
    def chosen(cls, path: str | None) -> ClusterFolder:
        """The one that ``--pki`` names, else the one in devopsellence's state folder."""
        return cls(Path(path).absolute() if path else state_home() / "cluster")

    @property
    def authority_certificate(self) -> Path:
        return self.root / "ca.crt"

    @property
    def authority_key(self) -> Path:
        return self.root / "ca.key"

    @property
    def record(self) -> Path:
        """Which members etcd has."""
        return self.root / "cluster.json"

    @property
    def root_operator(self) -> CertificateBundle:
        return CertificateBundle(self.root / "root")

    @property
    def controller(self) -> CertificateBundle:
        return CertificateBundle(self.root / "controller")

    def member(self, name: str) -> CertificateBundle:
        return CertificateBundle(self.root / f"etcd-{name}")

    def operator(self, name: str) -> CertificateBundle:
        return CertificateBundle(self.root / f"operator-{name}")

    def node(self, name: str) -> CertificateBundle:
        return CertificateBundle(self.root / f"node-{name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if it is missing; one command at a time changes it."""
        make_private(self.root)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def members(self) -> dict[str, str]:
        """etcd's members, name to address, as last said; none when nothing was.

        Raises:
            CliError: ``cluster_record_unreadable``.
        """
        try:
            members = json.loads(self.record.read_bytes())["members"]
            return {str(name): str(address) for name, address in members.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"cannot read {self.record}, which says which members etcd has: {error}"
            raise CliError("cluster_record_unreadable", message) from error

    def remember(self, members: Mapping[str, str]) -> None:
        """Write down etcd's members; the folder exists."""
        write_atomic(self.record, json.dumps({"members": dict(members)}, indent=1).encode() + b"\n")


def make_private(path: Path) -> None:
    """Make a folder for this user alone, if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
