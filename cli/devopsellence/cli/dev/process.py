"""Identity of a process: pid, start time and boot, because the kernel reuses pids.

A pid file left over from a dead process (kill -9, a reboot) may name an unrelated process. Signals go only to the
recorded process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_FALLBACK_INTERVAL = 0.02  # seconds


@dataclass(frozen=True)
class ProcessIdentity:
    """Identity of a process; ``started`` is ``<boot id>:<start time in clock ticks since boot>``."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """True for a running process; False for a zombie."""
        return bool(self.started) and _started(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Send a signal if the process is still the same; False for a dead process."""
        if not hasattr(os, "pidfd_open"):
            return self._send_by_pid(number)
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                # The descriptor refers to the process with this pid now: the pid cannot be reused between the check
                # below and the signal.
                if self.alive:
                    signal.pidfd_send_signal(descriptor, number)
                    return True
            finally:
                os.close(descriptor)
        return False

    def _send_by_pid(self, number: signal.Signals) -> bool:
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, number)
                return True
        return False

    def wait_gone(self, seconds: float) -> bool:
        """Wait for the end of the process; False after ``seconds``."""
        if not hasattr(os, "pidfd_open"):  # an interpreter built against kernel headers older than 5.3
            return self._poll_gone(seconds)
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:
                return True
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(seconds * 1000))
        finally:
            os.close(descriptor)

    def _poll_gone(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_FALLBACK_INTERVAL)
        return True

    def end(self, seconds: float) -> bool:
        """Send SIGTERM, wait up to ``seconds``, then send SIGKILL; True for a dead process."""
        if not self.send(signal.SIGTERM) or self.wait_gone(seconds):
            return True
        return not self.send(signal.SIGKILL) or self.wait_gone(5)


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of the process with ``pid`` now; None for none."""
    started = _started(pid)
    return ProcessIdentity(pid, started) if started else None


def read_pid_file(path: Path) -> ProcessIdentity | None:
    """Return the process named by a pid file, dead or alive; None without a valid file."""
    try:
        pid, started = path.read_text().split()
        return ProcessIdentity(int(pid), started)
    except (OSError, ValueError):
        return None


def _started(pid: int) -> str:
    """Return ``ProcessIdentity.started`` of ``pid``; "" for no process or a zombie (proc(5), stat, field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    # The second field is the command in parentheses and may contain spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return "" if state in "ZX" else f"{boot}:{ticks}"
