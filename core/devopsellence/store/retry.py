"""Loops that never give up: run a step, and when it ends run it again, after a backoff if it failed early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from devopsellence.store.errors import PermissionDenied, Unauthenticated

#: The longest backoff while etcd refuses whoever asks: that changes seldom, and not by itself.
REFUSED_SECONDS: Final = 60.0


async def repeat(
    step: Callable[[], Awaitable[None]],
    on_error: Callable[[Exception], None],
    *,
    longest: float,
    steady: float = 5.0,
) -> NoReturn:
    """Run ``step`` over and over until cancelled.

    Args:
        step: a step that returns is run again at once; one that raises, after a backoff with full jitter.
        on_error: is told of every exception.
        longest: the longest backoff in seconds; the first is 0.1 at most. Refusals have :data:`REFUSED_SECONDS`.
        steady: a step that lasted so many seconds was fine until then: it is run again at once, and the backoff
            starts anew.
    """
    loop = asyncio.get_running_loop()
    usual, refused = (
        wait_random_exponential(multiplier=0.1, max=most) for most in (longest, max(longest, REFUSED_SECONDS))
    )

    async def attempt() -> None:
        started = loop.time()
        try:
            await step()
        except Exception as error:
            on_error(error)
            if loop.time() - started < steady:
                raise

    while True:
        await AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=lambda state: (refused if is_refused(state) else usual)(state),
        )(attempt)


def is_refused(state: RetryCallState) -> bool:
    """Whether the last attempt failed because etcd does not know or does not allow whoever asks."""
    error = state.outcome.exception() if state.outcome is not None else None
    return isinstance(error, PermissionDenied | Unauthenticated)
