"""What passes between the commands and the supervisor, through two files: what should run, and what does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from devopsellence.cli.dev.process import ProcessIdentity
from devopsellence.cli.util.files import write_atomic

RUNNING: Final = "running"
BACKOFF: Final = "backoff"
STOPPED: Final = "stopped"


@dataclass(frozen=True)
class ProcessSpec:
    """A process that should run: a command line and the whole of its environment.

    ``stop_seconds`` is how long it has between SIGTERM and SIGKILL. ``stamp`` differs when something that the command
    line only names has changed (a renewed certificate, a newer version), so that the process is started anew.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    stop_seconds: float
    stamp: str = ""


@dataclass(frozen=True)
class ProcessReport:
    """How one process fares.

    Times are seconds since the epoch. ``phase`` is RUNNING, BACKOFF (will be started again at ``next_attempt_at``) or
    STOPPED. ``restarts`` counts since the supervisor began to run this command line. ``last_end`` says how it ended
    the last time that nobody asked it to ("" when it never did), ``last_lines`` what it wrote before that.
    """

    name: str
    phase: str
    pid: int = 0
    started: str = ""
    since: float = 0.0
    restarts: int = 0
    next_attempt_at: float = 0.0
    last_end: str = ""
    last_end_at: float = 0.0
    last_lines: tuple[str, ...] = ()

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)

    @property
    def alive(self) -> bool:
        return self.phase == RUNNING and self.identity.alive


@dataclass(frozen=True)
class SupervisorSnapshot:
    """What the supervisor ``supervisor`` runs, in the order of starting. ``since``: seconds since the epoch."""

    supervisor: ProcessIdentity
    since: float
    processes: tuple[ProcessReport, ...] = field(default=())

    def process(self, name: str) -> ProcessReport:
        """The report on ``name``; one in phase STOPPED when there is none."""
        return next((report for report in self.processes if report.name == name), ProcessReport(name, STOPPED))


def write_specs(path: Path, specs: tuple[ProcessSpec, ...]) -> None:
    write_atomic(path, _encode([asdict(spec) for spec in specs]))


def read_specs(path: Path) -> tuple[ProcessSpec, ...]:
    """The processes that should run, in the order of starting.

    Raises:
        OSError: the file cannot be read. ValueError: it does not hold that.
    """
    try:
        return tuple(
            ProcessSpec(**{**fields, "argv": tuple(fields["argv"])}) for fields in json.loads(path.read_bytes())
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold processes: {error}") from error


def write_snapshot(path: Path, snapshot: SupervisorSnapshot) -> None:
    write_atomic(path, _encode(asdict(snapshot)), sync=False)


def read_snapshot(path: Path) -> SupervisorSnapshot | None:
    """The last snapshot that a supervisor wrote, which may be long gone; None when there is none to be read."""
    try:
        fields = json.loads(path.read_bytes())
        return SupervisorSnapshot(
            ProcessIdentity(**fields["supervisor"]),
            fields["since"],
            tuple(ProcessReport(**{**each, "last_lines": tuple(each["last_lines"])}) for each in fields["processes"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _encode(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
