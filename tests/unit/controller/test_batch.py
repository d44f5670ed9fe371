"""Who moves now, as a table."""

from __future__ import annotations

import pytest

from devopsellence.controller.rollout.batch import Candidate, choose


def behind(*names: str) -> list[Candidate]:
    return [Candidate(name) for name in names]


@pytest.mark.parametrize(
    ("candidates", "in_flight", "limit", "expected"),
    [
        pytest.param(behind("c", "a", "b"), 0, 1, ["a"], id="by name"),
        pytest.param(behind("c", "a", "b"), 0, 2, ["a", "b"], id="as many as the limit"),
        pytest.param(behind("a", "b"), 1, 1, [], id="nobody while one is in flight"),
        pytest.param(behind("a", "b"), 1, 2, ["a"], id="the rest of the limit"),
        pytest.param(behind("a", "b"), 5, 2, [], id="more are in flight than may be"),
        pytest.param(behind("a", "b"), 9, None, ["a", "b"], id="no limit"),
        pytest.param([*behind("a"), Candidate("z", first=True)], 0, 1, ["z"], id="the release task's node first"),
        pytest.param(
            [Candidate("z", free=True, midway=True), *behind("a"), Candidate("y", first=True)],
            0,
            2,
            ["y", "z"],
            id="task, midway, name",
        ),
        pytest.param([Candidate("a", free=True), *behind("b")], 1, 1, ["a"], id="what is free goes beyond the limit"),
        pytest.param([*behind("a"), Candidate("b", free=True)], 0, 1, ["b"], id="what is free takes a place"),
        pytest.param(
            [*behind("a"), Candidate("b", free=True, answers=False)], 0, 1, ["a", "b"], id="unless nobody answers there"
        ),
        pytest.param(
            [*behind("a"), Candidate("b", promised=True), Candidate("c", first=True)], 0, 1, ["b"], id="promised first"
        ),
        pytest.param(
            [*behind("a"), Candidate("b", promised=True)], 1, 1, [], id="a promise is no place beyond the limit"
        ),
        pytest.param([], 0, 1, [], id="nobody is behind"),
    ],
)
def test_who_moves(candidates: list[Candidate], in_flight: int, limit: int | None, expected: list[str]) -> None:
    assert sorted(choose(candidates, in_flight, limit)) == sorted(expected)


def test_who_moves_is_in_order() -> None:
    candidates = [Candidate("z", free=True, midway=True), *behind("b", "a"), Candidate("y", first=True)]
    assert choose(candidates, 0, None) == ["y", "z", "a", "b"]
