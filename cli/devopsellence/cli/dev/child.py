"""Child process of the supervisor: start, output, restart with growing backoff."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Final

from devopsellence.cli.dev.logs import BoundedLog, last_lines
from devopsellence.cli.dev.process import ProcessIdentity, identify
from devopsellence.cli.dev.spec import BACKOFF, RUNNING, STOPPED, ProcessReport, ProcessSpec

FIRST_PAUSE: Final = 0.5  # seconds
LONGEST_PAUSE: Final = 30.0
# A process with this run time is not in a crash loop: the count of failures starts again.
HEALTHY_AFTER: Final = 60.0  # seconds
_KEPT_OUTPUT: Final = 8 * 1024
_KEPT_LINES: Final = 10
_CHUNK: Final = 64 * 1024
_LAST_CHUNKS: Final = 16  # a pipe holds one chunk; more only if a subprocess of the child keeps writing
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def backoff_seconds(failures: int, jitter: float) -> float:
    """Return the pause in seconds after ``failures`` exits in a row (from 1): doubling, bounded, with jitter.

    ``jitter`` in [0, 1) adds up to a quarter. Same policy as tenacity's ``wait_exponential_jitter``; tenacity imports
    asyncio, which would double the size of the long-running supervisor.
    """
    doubled = FIRST_PAUSE * (1 << min(failures - 1, 16))
    return min(doubled * (1 + jitter / 4), LONGEST_PAUSE)


class ChildProcess:
    """Process and its output. Never blocks: the loop of the supervisor calls ``read`` and ``ended``."""

    def __init__(self, spec: ProcessSpec, log: BoundedLog, note: Callable[..., None]) -> None:
        self.spec = spec
        self.output = -1  # file descriptor of the process's output; -1 for none
        self.next_attempt = 0.0  # monotonic
        self._log = log
        self._note = note
        self._process: subprocess.Popen[bytes] | None = None
        self._identity = ProcessIdentity(0, "")
        self._recent = b""
        self._failures = 0
        self._attempts = 0
        self._since = 0.0
        self._started_at = 0.0  # monotonic
        self._last_end = ""
        self._last_end_at = 0.0
        self._last_lines: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process; a command that cannot be started counts as an exit."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._attempts += 1
        self._since = time.time()
        self._started_at = time.monotonic()
        try:
            self._process = subprocess.Popen(
                self.spec.argv,
                env=self.spec.env,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                preexec_fn=_die_with(os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(reader)
            self._failed(f"could not be started: {error}")
        else:
            os.set_blocking(reader, False)
            self.output = reader
            # Only this process can reap the child, so it still exists, if only as a zombie.
            self._identity = identify(self._process.pid) or ProcessIdentity(self._process.pid, "")
            self._note("process started", process=self.spec.name, pid=self._process.pid)
        finally:
            os.close(writer)

    def read(self) -> bool:
        """Log available output; False at the end of the output."""
        return self._take() != b""

    def _take(self) -> bytes | None:
        """Log and return the next chunk of output; None for no output at the moment, b"" for the end."""
        try:
            data = os.read(self.output, _CHUNK)
        except BlockingIOError:
            return None
        self._log.write(data)
        self._recent = (self._recent + data)[-_KEPT_OUTPUT:]
        return data

    def close_output(self) -> None:
        if self.output >= 0:
            os.close(self.output)
            self.output = -1

    def ended(self, *, asked: bool) -> bool:
        """Return True if the process has just exited; keep its last lines and schedule the next start.

        ``asked``: the supervisor stopped the process, so the exit is not a failure.
        """
        if self._process is None or (code := self._process.poll()) is None:
            return False
        self._process = None
        for _ in range(_LAST_CHUNKS):
            if self.output < 0 or not self._take():
                break
        how = f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        if asked:
            self._note("process stopped", process=self.spec.name, how=how)
        else:
            self._failed(how)
        return True

    def retry_now(self) -> None:
        """Reset the backoff, because the cause of the failures may be fixed."""
        self.next_attempt = 0.0
        self._failures = 0

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def report(self) -> ProcessReport:
        waiting = not self.running and self.next_attempt > 0
        return ProcessReport(
            name=self.spec.name,
            phase=RUNNING if self.running else BACKOFF if waiting else STOPPED,
            pid=self._identity.pid if self.running else 0,
            started=self._identity.started if self.running else "",
            since=self._since if self.running else 0.0,
            restarts=max(0, self._attempts - 1),
            next_attempt_at=time.time() + self.next_attempt - time.monotonic() if waiting else 0.0,
            last_end=self._last_end,
            last_end_at=self._last_end_at,
            last_lines=self._last_lines,
        )

    def _failed(self, how: str) -> None:
        now = time.monotonic()
        self._failures = 1 if now - self._started_at > HEALTHY_AFTER else self._failures + 1
        seconds = backoff_seconds(self._failures, int.from_bytes(os.urandom(2), "big") / 65536)
        self.next_attempt = now + seconds
        self._last_end, self._last_end_at = how, time.time()
        self._last_lines = tuple(last_lines(self._recent, _KEPT_LINES))
        self._recent = b""
        self._note("process exited", process=self.spec.name, how=how, restart_in_seconds=round(seconds, 2))


def _die_with(parent: int) -> Callable[[], None]:
    """Return a function for a new process: ask the kernel for SIGKILL upon the death of ``parent``.

    So no process survives a killed supervisor. etcd, the controller and the agent tolerate SIGKILL at any time.
    """

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return ask


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
