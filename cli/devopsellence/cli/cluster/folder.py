"""Folder of a cluster's CA and issued certificates, readable only by its owner."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devopsellence.atomic_file import write_atomic
from devopsellence.cli.output import CliError
from devopsellence.cli.util.files import state_home


@dataclass(frozen=True)
class CertificateBundle:
    """Folder with the CA certificate, a certificate and its key; the same file names for every subject."""

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

    @property
    def issuing_certificate(self) -> Path:
        """Certificate of the issuing authority, in the folder of the controllers."""
        return self.root / "issuing.crt"

    @property
    def issuing_key(self) -> Path:
        return self.root / "issuing.key"

    def settings_file(self, program: str) -> Path:
        """Return the path of the environment file of ``program`` (etcd, controller, agent)."""
        return self.root / f"{program}.env"


@dataclass(frozen=True)
class ControlPlane:
    """Machines of the control plane: etcd's members (name to address), and the controllers' addresses if given."""

    members: Mapping[str, str] = field(default_factory=dict)
    given_controllers: tuple[str, ...] = ()

    @property
    def controllers(self) -> tuple[str, ...]:
        """Addresses of the controllers, by default those of etcd's members."""
        return self.given_controllers or tuple(self.members.values())


@dataclass(frozen=True)
class ClusterFolder:
    """Paths below ``root``, the lock, and the record of the control plane's machines."""

    root: Path

    @classmethod
    def chosen(cls, path: str | None) -> ClusterFolder:
        """Return the folder given by ``--pki``, else the folder in devopsellence's state folder."""
        return cls(Path(path).absolute() if path else state_home() / "cluster")

    @property
    def authority_certificate(self) -> Path:
        return self.root / "ca.crt"

    @property
    def authority_key(self) -> Path:
        return self.root / "ca.key"

    @property
    def issuing_certificate(self) -> Path:
        return self.root / "issuing.crt"

    @property
    def issuing_key(self) -> Path:
        return self.root / "issuing.key"

    @property
    def next(self) -> ClusterFolder:
        """Folder of the authorities that a rotation will put in place of these; without one, there is no such folder.

        Its certificate is the last file to move.
        """
        return ClusterFolder(self.root / "next")

    @property
    def former_certificate(self) -> Path:
        """Certificate of the root before the rotation that is going on, once it has been replaced."""
        return self.root / "former.crt"

    @property
    def former_key(self) -> Path:
        return self.root / "former.key"

    @property
    def has_authority(self) -> bool:
        """Return True if certificates can be signed here."""
        return self.issuing_key.exists() or self.authority_key.exists()

    @property
    def record(self) -> Path:
        """File with etcd's members and the addresses of the controllers."""
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
        """Create the folder if missing, and lock it against other commands."""
        make_private(self.root)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def control_plane(self) -> ControlPlane:
        """Return the machines given to the last ``cluster init``; none before.

        Raises:
            CliError: ``cluster_record_unreadable``.
        """
        try:
            record = json.loads(self.record.read_bytes())
            members = {str(name): str(address) for name, address in record["members"].items()}
            # Earlier versions recorded no controllers.
            return ControlPlane(members, tuple(str(address) for address in record.get("controllers", ())))
        except FileNotFoundError:
            return ControlPlane()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"cannot read the list of the control plane's machines in {self.record}: {error}"
            raise CliError("cluster_record_unreadable", message) from error

    def remember(self, control_plane: ControlPlane) -> None:
        """Save the machines of the control plane; the folder must exist."""
        record = {"members": dict(control_plane.members), "controllers": list(control_plane.given_controllers)}
        write_atomic(self.record, json.dumps(record, indent=1).encode() + b"\n")


def make_private(path: Path) -> None:
    """Create a folder accessible only to this user, if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
