"""Endless retry loop: run a step again and again, after a backoff if the step failed early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from devopsellence.store.errors import PermissionDenied, Unauthenticated

#: Longest backoff while etcd denies access, in seconds: denials end rarely, and not by themselves.
REFUSED_SECONDS: Final = 60.0


async def repeat(
    step: Callable[[], Awaitable[None]],
    on_error: Callable[[Exception], None],
    *,
    longest: float,
    steady: float = 5.0,
) -> NoReturn:
    """Run ``step`` repeatedly until cancelled.

    Args:
        step: run again at once after returning, and after a backoff with full jitter after raising.
        on_error: called with every exception.
        longest: longest backoff in seconds; the first is at most 0.1. For denied access: :data:`REFUSED_SECONDS`.
        steady: a step that ran for so many seconds before failing is run again at once, and the backoff is reset.
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
    """Return True if the last attempt failed because etcd denied access to the user or the credential."""
    error = state.outcome.exception() if state.outcome is not None else None
    return isinstance(error, PermissionDenied | Unauthenticated)
