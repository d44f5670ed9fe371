"""One process that the supervisor keeps alive: started, listened to, started again with a growing pause."""

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
# A process that ran this long was not in a crash loop: its next end is the first again.
HEALTHY_AFTER: Final = 60.0  # seconds
_KEPT_OUTPUT: Final = 8 * 1024
_KEPT_LINES: Final = 10
_CHUNK: Final = 64 * 1024
_LAST_CHUNKS: Final = 16  # a pipe holds one; more only if a process of its own goes on writing
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def backoff_seconds(failures: int, jitter: float) -> float:
    """Seconds to wait after the ``failures``-th end in a row (from 1): doubling, bounded, spread by up to a quarter.

    ``jitter`` is from [0, 1). The policy is that of tenacity's ``wait_exponential_jitter``; tenacity itself imports
    asyncio, which would double the size of the process that is always there.
    """
    doubled = FIRST_PAUSE * (1 << min(failures - 1, 16))
    return min(doubled * (1 + jitter / 4), LONGEST_PAUSE)


class ChildProcess:
    """A process and its output. Never blocks: the supervisor's loop says when to read and when to look."""

    def __init__(self, spec: ProcessSpec, log: BoundedLog, note: Callable[..., None]) -> None:
        self.spec = spec
        self.output = -1  # the reading end of its output; -1 when there is none
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
        """Start it; a command that cannot be started counts as one that ended."""
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
            # The new process cannot be reaped by anybody but us, so that it is there, if only as a zombie.
            self._identity = identify(self._process.pid) or ProcessIdentity(self._process.pid, "")
            self._note("process started", process=self.spec.name, pid=self._process.pid)
        finally:
            os.close(writer)

    def read(self) -> bool:
        """Take over some of what it wrote; False when it will write no more."""
        return self._take() != b""

    def _take(self) -> bytes | None:
        """The next output, logged; None: nothing there at the moment; b"": it will write no more."""
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
        """True when it has ended just now: then what it last wrote has been kept, and its next start is arranged."""
        if self._process is None or (code := self._process.poll()) is None:
            return False
        self._process = None
        for _ in range(_LAST_CHUNKS):
            if self.output < 0 or not self._take():
                break
        how = f"ended with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        if asked:
            self._note("process stopped", process=self.spec.name, how=how)
        else:
            self._failed(how)
        return True

    def retry_now(self) -> None:
        """Forget the pause: somebody believes that the cause is gone."""
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
        self._note("process ended", process=self.spec.name, how=how, again_in_seconds=round(seconds, 2))


def _die_with(parent: int) -> Callable[[], None]:
    """What a new process does before it becomes the command: asks the kernel to be killed when ``parent`` dies.

    So nothing is left behind when the supervisor itself is killed. All three bear it: that is what they are made for.
    """

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
