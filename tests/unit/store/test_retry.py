"""Loops that never give up."""

from __future__ import annotations

import asyncio

import pytest

from devopsellence.store.retry import repeat


async def test_finished_or_steady_step_runs_again_at_once() -> None:
    errors: list[Exception] = []
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise asyncio.CancelledError
        if steps % 2:
            raise ValueError(steps)

    with pytest.raises(asyncio.CancelledError):
        await repeat(step, errors.append, longest=1, steady=0)
    assert [str(error) for error in errors] == ["1", "3"]


async def test_early_failure_waits_a_little() -> None:
    errors: list[Exception] = []

    async def step() -> None:
        raise ValueError

    task = asyncio.create_task(repeat(step, errors.append, longest=100, steady=100))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(errors) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
