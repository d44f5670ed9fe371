"""Files between the commands and the supervisor: the processes to run, and the running processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from devopsellence.atomic_file import write_atomic
from devopsellence.cli.dev.process import ProcessIdentity

RUNNING: Final = "running"
BACKOFF: Final = "backoff"
STOPPED: Final = "stopped"


@dataclass(frozen=True)
class ProcessSpec:
    """Process to run: command line and complete environment.

    ``stop_seconds`` is the time between SIGTERM and SIGKILL. ``stamp`` is a hash of files named in the command line,
    such as a certificate; a change causes a restart.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    stop_seconds: float
    stamp: str = ""


@dataclass(frozen=True)
class ProcessReport:
    """State of a process.

    Times are seconds since the epoch. ``phase`` is RUNNING, BACKOFF (next start at ``next_attempt_at``) or STOPPED.
    ``restarts`` counts the restarts of this command line by the supervisor. ``last_end`` describes the last unexpected
    exit ("" for none), ``last_lines`` are the log lines before that exit.
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
    """Running processes of a supervisor in start order; ``since`` is its start time in seconds since the epoch.

    ``specs``: :func:`specs_stamp` of the file that it runs; "" from a supervisor of an earlier version.
    """

    supervisor: ProcessIdentity
    since: float
    processes: tuple[ProcessReport, ...] = field(default=())
    specs: str = ""

    def process(self, name: str) -> ProcessReport:
        """Return the report of process ``name``; a report with phase STOPPED for an unknown process."""
        return next((report for report in self.processes if report.name == name), ProcessReport(name, STOPPED))


def write_specs(path: Path, specs: tuple[ProcessSpec, ...]) -> None:
    write_atomic(path, _encode([asdict(spec) for spec in specs]))


def read_specs(path: Path) -> tuple[ProcessSpec, ...]:
    """Return the processes to run, in start order.

    Raises:
        OSError: the file cannot be read. ValueError: the content is invalid.
    """
    try:
        return tuple(
            ProcessSpec(**{**fields, "argv": tuple(fields["argv"])}) for fields in json.loads(path.read_bytes())
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a list of processes: {error}") from error


def specs_stamp(path: Path) -> str:
    """Return a hash of the file with the processes to run.

    Raises:
        OSError: the file cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_snapshot(path: Path, snapshot: SupervisorSnapshot) -> None:
    write_atomic(path, _encode(asdict(snapshot)), sync=False)


def read_snapshot(path: Path) -> SupervisorSnapshot | None:
    """Return the last snapshot of a supervisor, dead or alive; None without a readable file."""
    try:
        fields = json.loads(path.read_bytes())
        return SupervisorSnapshot(
            ProcessIdentity(**fields["supervisor"]),
            fields["since"],
            tuple(
                ProcessReport(**{**report, "last_lines": tuple(report["last_lines"])}) for report in fields["processes"]
            ),
            fields.get("specs", ""),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _encode(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
