"""The supervisor as the commands see it: started, told to look again, stopped."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Mapping

from devopsellence.cli.dev.logs import tail
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.problems import supervisor_failed
from devopsellence.cli.dev.process import ProcessIdentity, read_pid_file
from devopsellence.cli.dev.spec import ProcessSpec, SupervisorSnapshot, read_snapshot, read_specs, write_specs

_START_SECONDS = 20.0
# On top of what its processes may take.
_STOP_SLACK = 10.0


def running(layout: DevLayout) -> SupervisorSnapshot | None:
    """What the supervisor says that it runs; None when there is no supervisor, or one of another version."""
    supervisor = read_pid_file(layout.supervisor_pid)
    snapshot = read_snapshot(layout.snapshot)
    return snapshot if snapshot and snapshot.supervisor == supervisor and supervisor.alive else None


def start(layout: DevLayout, environ: Mapping[str, str]) -> ProcessIdentity:
    """Start a supervisor for what ``run/processes.json`` says, in a session of its own, and wait until it is at work.

    Raises:
        CliError: ``supervisor_failed``, with the end of its log.
    """
    stop(layout)
    log = layout.log("supervisor")
    log.touch(mode=0o600)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "devopsellence.cli.dev.supervisor", str(layout.root)],
            env=dict(environ),
            cwd=layout.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdout is not None  # noqa: S101 - for the type checker
    with process.stdout as output:
        answered = bool(select.select([output], [], [], _START_SECONDS)[0]) and output.readline() != b""
    supervisor = read_pid_file(layout.supervisor_pid)
    if answered and supervisor is not None and supervisor.pid == process.pid:
        # It outlives us; Popen would otherwise warn that it does.
        process.returncode = 0
        return supervisor
    process.kill()
    process.wait()
    raise supervisor_failed(layout, tail(layout.log("supervisor"), 10))


def tell(layout: DevLayout, specs: tuple[ProcessSpec, ...], supervisor: ProcessIdentity) -> None:
    """Have it run ``specs``; what waits for its next start is tried at once."""
    write_specs(layout.processes, specs)
    supervisor.send(signal.SIGHUP)


def stop(layout: DevLayout) -> list[str]:
    """Stop the supervisor and all it runs, the agent first; what was still there of one that was killed, too.

    Returns:
        the names of what was stopped, in that order; empty when nothing ran.
    """
    snapshot = read_snapshot(layout.snapshot)
    reports = [report for report in reversed(snapshot.processes) if report.alive] if snapshot else []
    stopped = [report.name for report in reports]
    supervisor = read_pid_file(layout.supervisor_pid)
    if supervisor is not None and supervisor.alive:
        supervisor.end(_seconds_to_stop(layout))
        stopped.append("supervisor")
    # The kernel kills them with their supervisor; this is for where it could not.
    for report in reports:
        report.identity.end(10)
    return stopped


def _seconds_to_stop(layout: DevLayout) -> float:
    try:
        return _STOP_SLACK + sum(spec.stop_seconds for spec in read_specs(layout.processes))
    except (OSError, ValueError):
        return 60.0
