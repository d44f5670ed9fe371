from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from devopsellence.cli.agent.log_line import OutputLine
from devopsellence.cli.agent.log_merge import MergeBuffer


def line(node: str, at: int, container: str = "c") -> OutputLine:
    return OutputLine(node, "web", container, False, at, b"x")


def times(lines: list[OutputLine]) -> list[int]:
    return [each.at for each in lines]


def two() -> MergeBuffer:
    merge = MergeBuffer(1.0)
    merge.open("a")
    merge.open("b")
    return merge


def test_a_line_waits_for_the_streams_that_have_said_nothing() -> None:
    merge = two()
    merge.push("a", line("a", 2), now=0)
    assert times(merge.ready(0.5)) == []
    assert merge.due() == 1.0
    merge.push("b", line("b", 1), now=0.5)
    # "b" may still have something before 2.
    assert times(merge.ready(0.5)) == [1]
    merge.push("b", line("b", 3), now=0.6)
    assert times(merge.ready(0.6)) == [2]


def test_a_line_waits_no_longer_than_the_patience_and_takes_earlier_ones_with_it() -> None:
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


def test_a_closed_stream_is_not_waited_for_and_what_it_brought_is_kept() -> None:
    merge = two()
    merge.push("a", line("a", 1), now=0)
    merge.push("a", line("a", 2), now=0)
    merge.close("b")
    merge.close("a")
    assert times(merge.ready(0)) == [1, 2]


def test_a_clock_that_was_set_back_does_not_reorder_a_container() -> None:
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
def test_finished_streams_are_merged_exactly_however_they_arrive(streams: list[list[int]], random: Random) -> None:
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
