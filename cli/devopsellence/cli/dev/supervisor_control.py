"""Control of the supervisor by the ``dev`` commands: start, reload, stop."""

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
# Seconds on top of the stop times of the supervised processes.
_STOP_SLACK = 10.0


def running(layout: DevLayout) -> SupervisorSnapshot | None:
    """Return the snapshot of the running supervisor; None for no supervisor, or a supervisor of another version."""
    supervisor = read_pid_file(layout.supervisor_pid)
    snapshot = read_snapshot(layout.snapshot)
    return snapshot if snapshot and snapshot.supervisor == supervisor and supervisor.alive else None


def start(layout: DevLayout, environ: Mapping[str, str]) -> ProcessIdentity:
    """Start a supervisor for ``run/processes.json`` in a new session, and wait until the supervisor is ready.

    Raises:
        CliError: ``supervisor_failed``, with the last log lines.
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
        # The supervisor outlives this process; without a return code, Popen would warn about that.
        process.returncode = 0
        return supervisor
    process.kill()
    process.wait()
    raise supervisor_failed(layout, tail(layout.log("supervisor"), 10))


def tell(layout: DevLayout, specs: tuple[ProcessSpec, ...], supervisor: ProcessIdentity) -> None:
    """Make the supervisor run ``specs``; processes in backoff are started at once."""
    write_specs(layout.processes, specs)
    supervisor.send(signal.SIGHUP)


def stop(layout: DevLayout) -> list[str]:
    """Stop the supervisor and its processes, the agent first, including processes left over by a killed supervisor.

    Returns:
        the names of the stopped processes in order; empty for none.
    """
    snapshot = read_snapshot(layout.snapshot)
    reports = [report for report in reversed(snapshot.processes) if report.alive] if snapshot else []
    stopped = [report.name for report in reports]
    supervisor = read_pid_file(layout.supervisor_pid)
    if supervisor is not None and supervisor.alive:
        supervisor.end(_seconds_to_stop(layout))
        stopped.append("supervisor")
    # The kernel kills the processes with their supervisor; this is for systems without that feature.
    for report in reports:
        report.identity.end(10)
    return stopped


def _seconds_to_stop(layout: DevLayout) -> float:
    try:
        return _STOP_SLACK + sum(spec.stop_seconds for spec in read_specs(layout.processes))
    except (OSError, ValueError):
        return 60.0
