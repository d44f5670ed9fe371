"""Choice of a batch, as a table."""

from __future__ import annotations

import pytest

from devopsellence.controller.rollout.batch import BatchCandidate, choose_batch


def behind(*names: str) -> list[BatchCandidate]:
    return [BatchCandidate(name) for name in names]


@pytest.mark.parametrize(
    ("candidates", "in_flight", "limit", "expected"),
    [
        pytest.param(behind("c", "a", "b"), 0, 1, ["a"], id="by name"),
        pytest.param(behind("c", "a", "b"), 0, 2, ["a", "b"], id="as many as the limit"),
        pytest.param(behind("a", "b"), 1, 1, [], id="nobody while one is in flight"),
        pytest.param(behind("a", "b"), 1, 2, ["a"], id="the rest of the limit"),
        pytest.param(behind("a", "b"), 5, 2, [], id="more are in flight than may be"),
        pytest.param(behind("a", "b"), 9, None, ["a", "b"], id="no limit"),
        pytest.param(
            [*behind("a"), BatchCandidate("z", ran_task=True)], 0, 1, ["z"], id="the release task's node first"
        ),
        pytest.param(
            [BatchCandidate("z", free=True, midway=True), *behind("a"), BatchCandidate("y", ran_task=True)],
            0,
            2,
            ["y", "z"],
            id="task, midway, name",
        ),
        pytest.param(
            [BatchCandidate("a", free=True), *behind("b")], 1, 1, ["a"], id="what is free goes beyond the limit"
        ),
        pytest.param([*behind("a"), BatchCandidate("b", free=True)], 0, 1, ["b"], id="what is free takes a place"),
        pytest.param(
            [*behind("a"), BatchCandidate("b", free=True, reachable=False)],
            0,
            1,
            ["a", "b"],
            id="unless nobody answers there",
        ),
        pytest.param(
            [*behind("a"), BatchCandidate("b", recorded=True), BatchCandidate("c", ran_task=True)],
            0,
            1,
            ["b"],
            id="promised first",
        ),
        pytest.param(
            [*behind("a"), BatchCandidate("b", recorded=True)], 1, 1, [], id="a promise is no place beyond the limit"
        ),
        pytest.param([], 0, 1, [], id="nobody is behind"),
    ],
)
def test_batch_respects_max_parallel(
    candidates: list[BatchCandidate], in_flight: int, limit: int | None, expected: list[str]
) -> None:
    assert sorted(choose_batch(candidates, in_flight, limit)) == sorted(expected)


def test_batch_is_ordered() -> None:
    candidates = [BatchCandidate("z", free=True, midway=True), *behind("b", "a"), BatchCandidate("y", ran_task=True)]
    assert choose_batch(candidates, 0, None) == ["y", "z", "a", "b"]
