"""Loops that never give up: run a step, and when it ends run it again, after a backoff if it failed early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential


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
        longest: the longest backoff in seconds; the first is 0.1 at most.
        steady: a step that lasted so many seconds was fine until then: it is run again at once, and the backoff
            starts anew.
    """
    loop = asyncio.get_running_loop()

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
            retry=retry_if_exception_type(Exception), wait=wait_random_exponential(multiplier=0.1, max=longest)
        )(attempt)
