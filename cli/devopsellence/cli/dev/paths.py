"""Paths of the local cluster, in a folder readable only by its owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DevLayout:
    """Paths in the folder ``root`` of the local cluster."""

    root: Path

    @property
    def state(self) -> Path:
        """Saved settings of the cluster; the file exists if and only if there is a local cluster."""
        return self.root / "dev.json"

    @property
    def command_lock(self) -> Path:
        """Lock of the command that changes the cluster."""
        return self.root / "lock"

    @property
    def processes(self) -> Path:
        """Processes to run: written by ``dev up``, read by the supervisor."""
        return self.root / "run" / "processes.json"

    @property
    def snapshot(self) -> Path:
        """Running processes: written by the supervisor after each change."""
        return self.root / "run" / "snapshot.json"

    @property
    def supervisor_pid(self) -> Path:
        """Pid file of the supervisor, locked for the lifetime of the supervisor."""
        return self.root / "run" / "supervisor.pid"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    def certificate(self, name: str) -> Path:
        return self.pki / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.pki / f"{name}.key"

    @property
    def etcd_data(self) -> Path:
        return self.root / "etcd"

    @property
    def agent_state(self) -> Path:
        return self.root / "agent"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.root, self.processes.parent, self.logs, self.pki, self.etcd_data, self.agent_state)
