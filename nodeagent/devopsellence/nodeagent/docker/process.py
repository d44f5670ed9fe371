"""Processes that the engine has started in a container, seen from outside: signals, and waiting for their end.

The engine passes signals to a container's first process only. A command that was run in it besides is reached by its
number, if this agent shares the machine's numbers and may signal it. A number alone is no proof: the process must be in
the container's control group, and is held open while that is looked at, so that its number is not given to another.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Between SIGHUP and SIGKILL, when nobody is there any more for whom a command could run.
HANGUP_SECONDS: Final = 2.0


def signal_number(name: str) -> signal.Signals | None:
    """The signal that is called so (``SIGTERM``, ``TERM``); None if there is none."""
    with suppress(KeyError):
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    return None


def send_signal(pid: int, container: str, wanted: signal.Signals) -> bool:
    """Send a signal to a command and what it has started, as a terminal would; False if it cannot be reached."""
    with _held(pid, container) as held:
        if held is None:
            return False
        try:
            if os.getpgid(pid) == pid:
                os.killpg(pid, wanted)
            else:
                signal.pidfd_send_signal(held, wanted)
        except OSError:
            return False
        return True


async def hang_up(pid: int, container: str) -> bool:
    """Hang up, and kill what does not go by that; False if it cannot be reached."""
    with _held(pid, container) as held:
        if held is None or not send_signal(pid, container, signal.SIGHUP):
            return False
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        # The descriptor of a process is readable when the process has ended.
        loop.add_reader(held, ended.set)
        try:
            async with asyncio.timeout(HANGUP_SECONDS):
                await ended.wait()
        except TimeoutError:
            send_signal(pid, container, signal.SIGKILL)
        finally:
            loop.remove_reader(held)
        return True


@contextmanager
def _held(pid: int, container: str) -> Iterator[int | None]:
    """A descriptor of a process of this container; None if it is not there or cannot be seen to be one."""
    try:
        descriptor = os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        descriptor = None
    try:
        yield descriptor if descriptor is not None and _is_in(pid, container) else None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_in(pid: int, container: str) -> bool:
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
