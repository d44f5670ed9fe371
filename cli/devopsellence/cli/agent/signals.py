"""Handling of local signals during a remote command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from devopsellence.cli.agent.session import Session

_BASE: Final = 128


class SessionInterrupted(Exception):
    """A local signal ended the session before the command ended; ``exit_code`` is 128 plus its number."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number
        self.exit_code = _BASE + number


async def run_with_signals(
    session: Session, run: Awaitable[int], *, interrupt: str, warn: Callable[[str], None]
) -> int:
    """Return the exit code of ``run``; meanwhile, pass the first Ctrl-C on as the signal ``interrupt``.

    A second Ctrl-C, SIGTERM and SIGHUP end the session, and the agent then terminates the command. Changes of the
    window size are passed on.

    Raises:
        SessionInterrupted: a signal ended the session.
    """
    loop, work = asyncio.get_running_loop(), asyncio.ensure_future(run)
    ended: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        ended.append(number)
        work.cancel()

    def interrupted() -> None:
        loop.add_signal_handler(signal.SIGINT, end, signal.SIGINT)
        warn(f"sent {interrupt}; press Ctrl-C again to end the session")
        session.signal(interrupt)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGWINCH, session.resize)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not ended:
            raise
        raise SessionInterrupted(ended[0]) from None
    finally:
        work.cancel()
        for number in (signal.SIGINT, signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
