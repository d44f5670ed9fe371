"""Supervisor of the local cluster: ``python -m devopsellence.cli.dev.supervisor FOLDER``.

Level-triggered: runs the processes in ``run/processes.json``, reads the file again on SIGHUP, restarts exited processes
with backoff, and writes the state to ``run/snapshot.json``. SIGTERM stops all processes in reverse start order. Sleeps
until a signal, output or the end of a backoff; never polls. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from devopsellence.cli.dev.child import ChildProcess
from devopsellence.cli.dev.logs import BoundedLog
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.process import ProcessIdentity, identify
from devopsellence.cli.dev.spec import ProcessSpec, SupervisorSnapshot, read_specs, specs_stamp, write_snapshot

ALREADY_RUNS: Final = 3  # exit code
READY: Final = b"ready\n"  # written to stdout once signals are handled


class Supervisor:
    """Runner of the processes of a folder. Owns the signal handlers, so only one per process."""

    def __init__(self, layout: DevLayout, identity: ProcessIdentity, claim: int) -> None:
        self._layout = layout
        self._identity = identity
        self._claim = claim
        self._log = BoundedLog(layout.log("supervisor"))
        self._children: dict[str, ChildProcess] = {}
        self._selector = selectors.DefaultSelector()
        self._since = time.time()
        self._stop = False
        self._reload = True
        self._changed = True
        self._told = False
        self._specs = ""

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or the removal of the folder."""
        self._listen_to_signals()
        self.note("supervisor started", pid=self._identity.pid)
        while not self._stop:
            if self._reload:
                self._reload = False
                self._reconcile()
            self._start_what_is_due()
            self._publish()
            self._tell_ready()
            self._turn(0 if self._stop or self._reload else self._seconds_to_next_attempt())
        self._stop_children(list(self._children))
        self._publish()
        self.note("supervisor stopped")

    def note(self, event: str, **values: object) -> None:
        """Write a line to the supervisor's log: a constant message, then keys and values."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        details = "".join(f" {key}={value!r}" for key, value in values.items())
        self._log.write(f"{stamp} {event}{details}\n".encode(errors="replace"))

    def _listen_to_signals(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        self._selector.register(reader, selectors.EVENT_READ, lambda: self._drain(reader))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop = True
        elif number == signal.SIGHUP:
            self._reload = True

    @staticmethod
    def _drain(reader: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 4096)

    def _reconcile(self) -> None:
        """Stop removed and changed processes, add new ones, end all backoffs."""
        try:
            # The stamp first: if the file is replaced in between, a signal follows.
            stamp = specs_stamp(self._layout.processes)
            specs = {spec.name: spec for spec in read_specs(self._layout.processes)}
        except (OSError, ValueError) as error:
            # An unreadable file does not mean an empty list.
            self.note("cannot read processes.json, keeping the current processes", error=str(error))
            return
        self._stop_children([name for name, child in self._children.items() if specs.get(name) != child.spec])
        self._children = {name: self._children.get(name) or self._new_child(spec) for name, spec in specs.items()}
        for child in self._children.values():
            child.retry_now()
        self._specs = stamp
        self._changed = True

    def _new_child(self, spec: ProcessSpec) -> ChildProcess:
        return ChildProcess(spec, BoundedLog(self._layout.log(spec.name)), self.note)

    def _start_what_is_due(self) -> None:
        if not self._folder_is_ours():
            self.note("folder removed, stopping")
            self._stop = True
            return
        now = time.monotonic()
        for child in self._children.values():
            if not child.running and child.next_attempt <= now:
                self._forget_output(child)
                child.start()
                if child.output >= 0:
                    self._selector.register(child.output, selectors.EVENT_READ, self._reading(child))
                self._changed = True

    def _folder_is_ours(self) -> bool:
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._claim), self._layout.supervisor_pid.stat())
        return False

    def _tell_ready(self) -> None:
        """Report readiness on stdout once; from then on, stdout is the log."""
        if not self._told:
            self._told = True
            with contextlib.suppress(OSError):
                os.write(1, READY)
            os.dup2(2, 1)

    def _seconds_to_next_attempt(self) -> float | None:
        """Return the seconds until the next start; None without a process in backoff."""
        waiting = [child.next_attempt for child in self._children.values() if not child.running]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _turn(self, seconds: float | None) -> None:
        """Sleep until the next event, at most ``seconds``, then handle the event.

        A signal before the sleep is not missed, because the signal leaves a byte in the pipe.
        """
        for key, _ in self._selector.select(seconds):
            key.data()
        for child in self._children.values():
            self._changed |= child.ended(asked=False)

    def _reading(self, child: ChildProcess) -> Callable[[], None]:
        def read() -> None:
            if not child.read():
                self._forget_output(child)

        return read

    def _forget_output(self, child: ChildProcess) -> None:
        if child.output >= 0:
            self._selector.unregister(child.output)
            child.close_output()

    def _stop_children(self, names: list[str]) -> None:
        """Stop processes sequentially in reverse start order, each within its stop time."""
        for name in reversed(names):
            child = self._children.pop(name)
            child.send(signal.SIGTERM)
            if not self._wait_ended(child, child.spec.stop_seconds):
                self.note("process did not stop in time, killing it", process=name)
                child.send(signal.SIGKILL)
                self._wait_ended(child, 5.0)
            self._forget_output(child)
            self._changed = True

    def _wait_ended(self, child: ChildProcess, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while child.running and (left := deadline - time.monotonic()) > 0:
            self._turn(left)
            child.ended(asked=True)
        return not child.running

    def _publish(self) -> None:
        if not self._changed:
            return
        self._changed = False
        reports = tuple(child.report() for child in self._children.values())
        try:
            write_snapshot(self._layout.snapshot, SupervisorSnapshot(self._identity, self._since, reports, self._specs))
        except OSError as error:
            self.note("cannot write the snapshot", error=str(error))


def claim(path: Path, identity: ProcessIdentity) -> int | None:
    """Lock and write the pid file; return its descriptor, or None for a file locked by another supervisor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{identity.pid} {identity.started}\n".encode())
    return descriptor


def main() -> int:
    layout = DevLayout(Path(sys.argv[1]))
    identity = identify(os.getpid()) or ProcessIdentity(os.getpid(), "")
    claimed = claim(layout.supervisor_pid, identity)
    if claimed is None:
        return ALREADY_RUNS
    Supervisor(layout, identity, claimed).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
