"""What this process's signals mean while a command runs elsewhere."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from devopsellence.cli.agent.session import Session

_BASE: Final = 128


class SessionInterrupted(Exception):
    """A signal ended the session before the command did; ``exit_code`` is the shell's for it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = _BASE + number


async def run_with_signals(session: Session, run: Awaitable[int], *, interrupt: str, say: Callable[[str], None]) -> int:
    """``run``'s exit code; meanwhile the first Ctrl-C is passed on as the signal ``interrupt``.

    A second Ctrl-C, SIGTERM and SIGHUP end the session, and the agent then ends the command. A change of the terminal's
    size is passed on.

    Raises:
        Ended: one of these did.
    """
    loop, work = asyncio.get_running_loop(), asyncio.ensure_future(run)
    ended: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        ended.append(number)
        work.cancel()

    def interrupted() -> None:
        loop.add_signal_handler(signal.SIGINT, end, signal.SIGINT)
        say(f"{interrupt} is passed on; Ctrl-C again ends it")
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
