from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devopsellence.cli.agent.log_line import NANOS, OutputLine
from devopsellence.cli.agent.log_stream import ResumePoint

Said = tuple[str, int, bytes]


def line(container: str, at: int, text: bytes = b"x") -> OutputLine:
    return OutputLine("n1", "web", container, False, at, text)


def test_resume_without_lines_repeats_the_first_request() -> None:
    assert ResumePoint().since is None


def test_repeated_lines_are_left_out_but_equal_lines_kept() -> None:
    resume = ResumePoint()
    assert resume.admit(line("c", 5), resumed=False)
    assert resume.admit(line("c", 5), resumed=False)
    resume.restart()
    assert resume.since == 5
    again = [line("c", 4), line("c", 5), line("c", 5, b"y"), line("c", 5), line("c", 5), line("c", 6)]
    assert [resume.admit(entry, resumed=True) for entry in again] == [False, False, True, False, True, True]


def test_silent_container_limits_overlap() -> None:
    resume = ResumePoint()
    resume.admit(line("old", 0), resumed=False)
    resume.admit(line("new", 3600 * NANOS), resumed=False)
    assert resume.since == (3600 - 30) * NANOS
    resume.admit(line("third", 3599 * NANOS), resumed=False)


SAID = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.sampled_from([b"x", b"y"])), max_size=30)


@given(SAID, st.lists(st.integers(0, 30), max_size=4))
def test_every_line_appears_once_after_any_break(entries: list[Said], breaks: list[int]) -> None:
    # Each container's lines are in order of time; streams interleave them as they like.
    log = sorted(entries, key=lambda entry: entry[1])
    resume, seen, resumed = ResumePoint(), [], False
    for length in [*breaks, len(log)]:
        since = resume.since or 0
        stream = [line(*entry) for entry in log if entry[1] >= since]
        resume.restart()
        seen += [entry for entry in stream[:length] if resume.admit(entry, resumed=resumed)]
        resumed = True
    assert sorted((entry.container, entry.at, entry.text) for entry in seen) == sorted(log)
