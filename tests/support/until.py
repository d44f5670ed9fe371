"""Bounded waiting for another process or task; a failure shows the last value seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, look: Callable[[], T], *, seconds: float = 30.0, every: float = 0.05) -> T:
    """Return the first truthy value of ``look``.

    Raises:
        AssertionError: no such value came within ``seconds``; with ``what`` and the last value.
    """
    give_up = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"{what}: not within {seconds:.0f} s; last seen: {value!r}")
        time.sleep(every)


async def eventually(
    what: str,
    look: Callable[[], Awaitable[T]],
    holds: Callable[[T], object] = bool,
    *,
    seconds: float = 30.0,
    every: float = 0.05,
) -> T:
    """Return the first value of ``look`` for which ``holds``; a connection that fails or ends early is tried again.

    Raises:
        AssertionError: no such value came within ``seconds``; with ``what`` and the last value or error.
    """
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    value = await look()
                    if holds(value):
                        return value
                    last = value
                except (OSError, asyncio.IncompleteReadError) as error:
                    last = error
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {seconds:.0f} s; last seen: {last!r}") from None
