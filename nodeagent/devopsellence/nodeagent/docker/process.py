"""Signals to processes in containers, and waiting for their exit.

The engine passes signals only to a container's first process. An exec'd command is reached by its pid instead, provided
that the agent shares the machine's pid namespace and may signal the process. A pid alone is no proof: the process must
be in the container's cgroup, and a pidfd keeps the pid from being reused during the check.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Grace period between SIGHUP and SIGKILL, after the caller has gone.
HANGUP_SECONDS: Final = 2.0
#: Index of ``starttime`` (field 22 of /proc/<pid>/stat) after the command's name.
_STARTTIME: Final = 19


def signal_number(name: str) -> signal.Signals | None:
    """Return the signal of a name (``SIGTERM`` or ``TERM``); None if unknown."""
    with suppress(KeyError):
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    return None


def send_signal(pid: int, container: str, number: signal.Signals) -> bool:
    """Send a signal to a command and its process group, as a terminal would; False if not reachable."""
    with _open_process(pid, container) as pidfd:
        if pidfd is None:
            return False
        try:
            if os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                signal.pidfd_send_signal(pidfd, number)
        except OSError:
            return False
        return True


async def hang_up(pid: int, container: str) -> bool:
    """Send SIGHUP, then SIGKILL to a process still running after :data:`HANGUP_SECONDS`; False if not reachable."""
    with _open_process(pid, container) as pidfd:
        if pidfd is None or not send_signal(pid, container, signal.SIGHUP):
            return False
        loop, exited = asyncio.get_running_loop(), asyncio.Event()
        # A pidfd becomes readable when its process exits.
        loop.add_reader(pidfd, exited.set)
        try:
            async with asyncio.timeout(HANGUP_SECONDS):
                await exited.wait()
        except TimeoutError:
            send_signal(pid, container, signal.SIGKILL)
        finally:
            loop.remove_reader(pidfd)
        return True


def end_marked(first: int, container: str, mark: bytes, others: set[int]) -> dict[int, str]:
    """Kill the processes of a container with ``mark`` in their environment; return their names by pid.

    Found are descendants of the container's ``first`` process, which a process becomes when its parent ends. ``others``
    holds the pids known to have no mark, and is updated, so that each process is looked at once.
    """
    ended: dict[int, str] = {}
    found = set(_descendants(first))
    others &= found
    for pid in sorted(found - others):
        with _open_process(pid, container) as pidfd:
            if pidfd is None or mark not in _read(f"/proc/{pid}/environ").split(b"\0"):
                others.add(pid)
                continue
            name = _read(f"/proc/{pid}/comm").decode(errors="replace").strip()
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                ended[pid] = name
    return ended


def still_there(pids: set[int], first: int) -> set[int]:
    """Return those of ``pids`` that are descendants of a container's first process: not ended, or not waited for."""
    return pids & set(_descendants(first)) if pids else set()


def _descendants(pid: int) -> Iterator[int]:
    """Yield the pids of all processes below ``pid`` (proc(5), ``children``)."""
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            children = [int(child) for child in _read(str(task)).split()]
            yield from children
            waiting += children


def _read(path: str) -> bytes:
    """Return the content of a file about a process; empty if it is gone, or not this user's to read."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def running_time(pid: int, container: str) -> float | None:
    """Return the seconds since a process of this container started; None if the process is not visible from here.

    By the kernel's count of ticks since boot (proc(5), ``starttime``), which no setting of a clock moves.
    """
    if pid <= 0 or not _belongs_to(pid, container):
        return None
    try:
        # The command's name, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    started = int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


@contextmanager
def _open_process(pid: int, container: str) -> Iterator[int | None]:
    """Yield a pidfd of a process in this container; None if missing or not verifiable."""
    try:
        pidfd = os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        pidfd = None
    try:
        yield pidfd if pidfd is not None and _belongs_to(pid, container) else None
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _belongs_to(pid: int, container: str) -> bool:
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
