"""Signals that end a command: SIGTERM and SIGHUP unwind the program as Ctrl-C does, so that it cleans up and reports.

By default both end a process at once: child processes run on, temporary files stay, and nothing is said. A signal that
is ignored at the start stays ignored (``nohup`` ignores SIGHUP).
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")
#: Signals besides SIGINT, which Python and asyncio handle by themselves.
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal told the process to end; a KeyboardInterrupt, so that it is handled wherever Ctrl-C is."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def number_of(error: BaseException) -> signal.Signals:
    """Return the signal behind an interrupt; SIGINT for one raised by Python or click. The exit code is 128 more."""
    cause = error if isinstance(error, Interrupted) else error.__cause__  # click replaces an interrupt by Abort
    return cause.number if isinstance(cause, Interrupted) else signal.SIGINT


@contextmanager
def unwinding() -> Iterator[None]:
    """Make the signals raise :class:`Interrupted` outside of event loops; a second signal is ignored."""
    before = {number: signal.getsignal(number) for number in _active()}

    def unwind(number: int, _frame: FrameType | None) -> NoReturn:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number))

    for number in before:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a new event loop, as ``asyncio.run``; a signal cancels ``work`` and waits for its cleanup.

    Raises:
        Interrupted: a signal ended ``work``, whatever its cleanup raised (a closed terminal refuses every write).
    """
    received: list[signal.Signals] = []

    async def handled() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def end(number: signal.Signals) -> None:
            if not received and task is not None:
                received.append(number)
                task.cancel()

        before = {number: signal.getsignal(number) for number in _active()}
        for number in before:
            loop.add_signal_handler(number, end, number)
        try:
            return await work
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    try:
        return asyncio.run(handled())
    except BaseException as error:
        if received:
            raise Interrupted(received[0]) from error
        raise


def _active() -> list[signal.Signals]:
    """Return the signals to handle: none in another thread, which cannot handle any, and no ignored one."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in _ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
