"""The process that keeps the local cluster's processes alive: ``python -m devopsellence.cli.dev.supervisor FOLDER``.

Level, not edge: it runs what ``run/processes.json`` says, looks at it again on SIGHUP, starts again what ended, and
writes what it sees to ``run/snapshot.json``. SIGTERM: everything is stopped, the last started first. It sleeps until a
signal, an output or the end of a pause; it never polls. Standard library only.
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
from devopsellence.cli.dev.spec import ProcessSpec, SupervisorSnapshot, read_specs, write_snapshot

ALREADY_RUNS: Final = 3  # exit code
READY: Final = b"ready\n"  # what it says on its standard output once it reacts to signals


class Supervisor:
    """Runs the processes of one folder. One per process: it owns the signal handlers."""

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

    def run(self) -> None:
        """Until SIGTERM or SIGINT, or until its folder is taken away."""
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
        """One line in the supervisor's log: a constant message, then keys and values."""
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
        """Stop what should no longer run as it does, start what should, try at once what was waiting."""
        try:
            specs = {spec.name: spec for spec in read_specs(self._layout.processes)}
        except (OSError, ValueError) as error:
            # Cannot read is not empty.
            self.note("cannot read what should run, everything stays as it is", error=str(error))
            return
        self._stop_children([name for name, child in self._children.items() if specs.get(name) != child.spec])
        self._children = {name: self._children.get(name) or self._new_child(spec) for name, spec in specs.items()}
        for child in self._children.values():
            child.retry_now()
        self._changed = True

    def _new_child(self, spec: ProcessSpec) -> ChildProcess:
        return ChildProcess(spec, BoundedLog(self._layout.log(spec.name)), self.note)

    def _start_what_is_due(self) -> None:
        if not self._folder_is_ours():
            self.note("the folder was taken away")
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
        """Once: tell who started us, by our standard output, which becomes the log from then on."""
        if not self._told:
            self._told = True
            with contextlib.suppress(OSError):
                os.write(1, READY)
            os.dup2(2, 1)

    def _seconds_to_next_attempt(self) -> float | None:
        """None: nothing is waiting for its next start."""
        waiting = [child.next_attempt for child in self._children.values() if not child.running]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _turn(self, seconds: float | None) -> None:
        """Sleep until something happens, at most ``seconds``; take it in.

        A signal between the caller's look at the flags and this sleep is not missed: it leaves a byte in the pipe.
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
        """Stop them one after the other, the last started first, each within its time."""
        for name in reversed(names):
            child = self._children.pop(name)
            child.send(signal.SIGTERM)
            if not self._wait_ended(child, child.spec.stop_seconds):
                self.note("process does not stop, killing it", process=name)
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
            write_snapshot(self._layout.snapshot, SupervisorSnapshot(self._identity, self._since, reports))
        except OSError as error:
            self.note("cannot write the snapshot", error=str(error))


def claim(path: Path, identity: ProcessIdentity) -> int | None:
    """Take the pid file: its descriptor, locked for as long as this process lives; None when another one has it."""
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
