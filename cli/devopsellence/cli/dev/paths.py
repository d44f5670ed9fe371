"""Where everything of the local cluster lies: one folder, readable by its owner alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DevLayout:
    """The paths in the local cluster's folder ``root``."""

    root: Path

    @property
    def state(self) -> Path:
        """What is remembered from one start to the next; there is a local cluster if and only if it exists."""
        return self.root / "dev.json"

    @property
    def command_lock(self) -> Path:
        """Held by the command that is changing the local cluster."""
        return self.root / "lock"

    @property
    def processes(self) -> Path:
        """What the supervisor should run: written by ``dev up``, read by the supervisor."""
        return self.root / "run" / "processes.json"

    @property
    def snapshot(self) -> Path:
        """What the supervisor runs: written by the supervisor when it changes."""
        return self.root / "run" / "snapshot.json"

    @property
    def supervisor_pid(self) -> Path:
        """The supervisor's pid; locked by it as long as it lives."""
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
    def folders(self) -> tuple[Path, ...]:
        return (self.root, self.processes.parent, self.logs, self.pki, self.etcd_data, self.agent_state)
