from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from devopsellence.cli.agent.log_line import OutputLine
from devopsellence.cli.agent.log_merge import LogMerger
from devopsellence.cli.agent.log_stream import NodeLogStream
from devopsellence.cli.output import CliError


class FakeTail:
    """Brings lines at the given times, then raises ``error``, if any, or ends."""

    def __init__(self, node: str, *batches: list[int], error: Exception | None = None, ends: bool = True) -> None:
        self._node = node
        self._batches = batches
        self._error = error
        self._ends = ends

    async def batches(self) -> AsyncGenerator[list[OutputLine], None]:
        for batch in self._batches:
            yield [OutputLine(self._node, "web", "c", False, at, b"x" * 1000) for at in batch]
        if self._error is not None:
            raise self._error
        if not self._ends:
            await asyncio.Event().wait()


async def run(*tails: FakeTail) -> tuple[list[int], list[str]]:
    """The times of what was written, in its order, and the codes of the streams that failed."""
    written: list[int] = []
    failed: list[str] = []

    async def write(lines: list[OutputLine]) -> None:
        written.extend(line.at for line in lines)
        await asyncio.sleep(0)

    together = LogMerger(cast("list[NodeLogStream]", list(tails)), write, patience=60.0)
    async with asyncio.timeout(30):
        await together.run(lambda error: failed.append(error.code))
    return written, failed


async def test_everything_is_written_in_order() -> None:
    written, failed = await run(FakeTail("a", [1, 4], [5]), FakeTail("b", [2], [3, 6]))
    assert (written, failed) == ([1, 2, 3, 4, 5, 6], [])


async def test_more_than_may_wait_is_written_all_the_same() -> None:
    many = [list(range(first, first + 1000)) for first in range(0, 20_000, 1000)]
    written, _ = await run(FakeTail("a", *many), FakeTail("b", [20_001]))
    assert written == [*range(20_000), 20_001]


async def test_a_stream_that_fails_is_told_and_the_others_go_on() -> None:
    broken = FakeTail("a", [1], error=CliError("docker_unavailable", "no"))
    assert await run(broken, FakeTail("b", [2], [3])) == ([1, 2, 3], ["docker_unavailable"])


async def test_no_sources_end_the_merge() -> None:
    assert await run() == ([], [])


async def test_unexpected_error_ends_all_streams() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(FakeTail("a", error=ZeroDivisionError()), FakeTail("b", [1], ends=False))
