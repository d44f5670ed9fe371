from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.cli.agent.log_line import OutputLine
from devopsellence.cli.agent.log_merge import LogMerger, MergeBuffer
from devopsellence.cli.agent.log_stream import NodeLogStream
from devopsellence.cli.output import CliError


def line(node: str, at: int, container: str = "c") -> OutputLine:
    return OutputLine(node, "web", container, False, at, b"x")


def times(lines: list[OutputLine]) -> list[int]:
    return [output.at for output in lines]


def two() -> MergeBuffer:
    merge = MergeBuffer(1.0)
    merge.open("a")
    merge.open("b")
    return merge


def test_line_waits_for_silent_streams() -> None:
    merge = two()
    merge.push("a", line("a", 2), now=0)
    assert times(merge.ready(0.5)) == []
    assert merge.due() == 1.0
    merge.push("b", line("b", 1), now=0.5)
    # "b" may still have something before 2.
    assert times(merge.ready(0.5)) == [1]
    merge.push("b", line("b", 3), now=0.6)
    assert times(merge.ready(0.6)) == [2]


def test_line_waits_at_most_for_patience() -> None:
    merge = two()
    merge.push("a", line("a", 20), now=0)
    merge.push("a", line("a", 30), now=0.2)
    merge.push("a", line("a", 10, "other"), now=0.9)
    assert times(merge.ready(1.0)) == [10, 20]
    assert merge.due() == 1.2
    assert times(merge.ready(1.2)) == [30]
    assert merge.due() is None


def test_late_lines_are_not_held_back() -> None:
    merge = two()
    merge.push("a", line("a", 20), now=0)
    assert times(merge.ready(1.0)) == [20]
    merge.push("a", line("a", 10, "other"), now=1.1)
    assert times(merge.ready(1.1)) == [10]
    assert merge.due() is None


def test_closed_stream_keeps_its_lines() -> None:
    merge = two()
    merge.push("a", line("a", 1), now=0)
    merge.push("a", line("a", 2), now=0)
    merge.close("b")
    merge.close("a")
    assert times(merge.ready(0)) == [1, 2]


def test_clock_set_back_keeps_order_of_a_container() -> None:
    merge = MergeBuffer(1.0)
    merge.open("a")
    for at in (5, 3, 4, 6):
        merge.push("a", line("a", at), now=0)
    assert times(merge.ready(0)) == [5, 3, 4, 6]


def test_waiting_lines_are_counted_per_stream() -> None:
    merge = two()
    assert merge.held("a") == 0
    merge.push("a", line("a", 1), now=0)
    assert merge.held("a") > 0
    assert merge.held("b") == 0
    merge.ready(1.0)
    assert merge.held("a") == 0


@given(st.lists(st.lists(st.integers(0, 1000)), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_finished_streams_are_merged_in_exact_order(streams: list[list[int]], random: Random) -> None:
    merge = MergeBuffer(1.0)
    left = {number: sorted(stream) for number, stream in enumerate(streams)}
    for number in left:
        merge.open(number)
    out: list[OutputLine] = []
    while left:
        number = random.choice(sorted(left))
        if left[number]:
            merge.push(number, line(str(number), left[number].pop(0)), now=0)
        else:
            merge.close(number)
            del left[number]
        out += merge.ready(0)
    assert times(out) == sorted(at for stream in streams for at in stream)
    assert merge.due() is None


class FakeLogStream:
    """Stream of lines at the given times, then ``error``, if any."""

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


async def run(*tails: FakeLogStream) -> tuple[list[int], list[str]]:
    """Return the times of the written lines, in order, and the codes of failed streams."""
    written: list[int] = []
    failed: list[str] = []

    async def write(lines: list[OutputLine]) -> None:
        written.extend(line.at for line in lines)
        await asyncio.sleep(0)

    together = LogMerger(cast("list[NodeLogStream]", list(tails)), write, patience=60.0)
    async with asyncio.timeout(30):
        await together.run(lambda error: failed.append(error.code))
    return written, failed


async def test_merged_lines_are_in_order() -> None:
    written, failed = await run(FakeLogStream("a", [1, 4], [5]), FakeLogStream("b", [2], [3, 6]))
    assert (written, failed) == ([1, 2, 3, 4, 5, 6], [])


async def test_more_lines_than_the_buffer_are_all_written() -> None:
    many = [list(range(first, first + 1000)) for first in range(0, 20_000, 1000)]
    written, _ = await run(FakeLogStream("a", *many), FakeLogStream("b", [20_001]))
    assert written == [*range(20_000), 20_001]


async def test_failed_stream_is_reported_and_the_rest_continue() -> None:
    broken = FakeLogStream("a", [1], error=CliError("docker_unavailable", "no"))
    assert await run(broken, FakeLogStream("b", [2], [3])) == ([1, 2, 3], ["docker_unavailable"])


async def test_no_sources_end_the_merge() -> None:
    assert await run() == ([], [])


async def test_unexpected_error_ends_all_streams() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(FakeLogStream("a", error=ZeroDivisionError()), FakeLogStream("b", [1], ends=False))
