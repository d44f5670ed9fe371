"""Processes told apart for certain: by pid *and* start time *and* boot, because pids come round again.

A pid file that outlived its process (kill -9, a reboot) may name a stranger's process by now; nothing here ever signals
one that is not exactly the process that was written down.
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
    """One process of one boot. ``started`` is the kernel's: ``<boot id>:<clock ticks since boot>``."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """It runs (a zombie does not)."""
        return bool(self.started) and _started(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Signal it if it is still the same process; False when it is gone."""
        if not hasattr(os, "pidfd_open"):
            return self._send_by_pid(number)
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                # The descriptor holds on to whichever process has the pid now: looked at after it was opened, it
                # cannot be exchanged for another between the look and the signal.
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
        """True as soon as it has ended, False if it has not within ``seconds``."""
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
        """Ask it to end, wait up to ``seconds``, then kill it. True when it is gone."""
        if not self.send(signal.SIGTERM) or self.wait_gone(seconds):
            return True
        return not self.send(signal.SIGKILL) or self.wait_gone(5)


def identify(pid: int) -> ProcessIdentity | None:
    """Who has ``pid`` now; None when nobody does."""
    started = _started(pid)
    return ProcessIdentity(pid, started) if started else None


def read_pid_file(path: Path) -> ProcessIdentity | None:
    """Whom a pid file names, who may be long gone; None when there is none or it is no such file."""
    try:
        pid, started = path.read_text().split()
        return ProcessIdentity(int(pid), started)
    except (OSError, ValueError):
        return None


def _started(pid: int) -> str:
    """``ProcessIdentity.started`` of the process that has ``pid`` now; "" for none or a zombie (proc(5), stat, field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return "" if state in "ZX" else f"{boot}:{ticks}"
