"""Progress and estimates of a rollout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import NodeCounts, NodeProgress, Rollout, TaskStatus
from devopsellence.cli.render import progress

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(NOW - timedelta(seconds=seconds))
    return stamp


def rollout(**counts: int) -> Rollout:
    total = sum(counts.values())
    return Rollout(release=2, phase=Rollout.PROGRESSING, started_at=ago(60), counts=NodeCounts(total=total, **counts))


@pytest.mark.parametrize(
    ("counts", "left"),
    [
        ({"settled": 1, "converging": 1, "waiting": 1}, 120.0),
        ({"settled": 10, "converging": 2, "pending": 3, "waiting": 15}, 120.0),
        # Who is not there is not waited for.
        ({"settled": 3, "waiting": 3, "unreachable": 90}, 60.0),
        # The first of a batch say nothing of the others in it.
        ({"settled": 1, "converging": 9}, None),
        ({"settled": 0, "converging": 1, "waiting": 2}, None),
        ({"settled": 3}, None),
    ],
)
def test_estimate_extrapolates_settled_nodes(counts: dict[str, int], left: float | None) -> None:
    assert progress.seconds_left(rollout(**counts), NOW) == left


def test_stopped_rollout_has_no_estimate() -> None:
    counts = {"settled": 5, "waiting": 5}
    halted, back, failed = rollout(**counts), rollout(**counts), rollout(**counts)
    halted.halted = "web ended"
    back.phase, failed.phase = Rollout.ROLLING_BACK, Rollout.FAILED
    assert [progress.seconds_left(stopped, NOW) for stopped in (halted, back, failed)] == [None, None, None]


def test_cordoned_nodes_do_not_count_for_estimate() -> None:
    assert progress.seconds_left(rollout(settled=2, waiting=3), NOW, not_participating=1) == 60.0
    assert progress.seconds_left(rollout(settled=2, waiting=1), NOW, not_participating=1) is None


def test_estimate_ignores_the_release_task() -> None:
    record = rollout(settled=1, converging=1, waiting=2)
    record.task.CopyFrom(TaskStatus(phase=TaskStatus.SUCCEEDED, finished_at=ago(10)))
    assert progress.seconds_left(record, NOW) == 30.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "about 5 s left"),
        (38, "about 40 s left"),
        (95, "about 2 min left"),
        (3000, "about 50 min left"),
        (5400, "about 1.5 h left"),
    ],
)
def test_estimate_is_rounded(seconds: float, text: str) -> None:
    assert progress.time_left_text(seconds) == text


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"total": 4, "settled": 1, "waiting": 3, "services_settled": 2, "services_total": 2}, 0.25),
        ({"total": 4, "settled": 1, "converging": 1, "waiting": 2, "services_settled": 3, "services_total": 4}, 0.375),
        ({"total": 4, "settled": 3, "unreachable": 1, "services_settled": 6, "services_total": 6}, 1.0),
        ({"total": 2, "unreachable": 2}, 0.0),
        ({"total": 2, "settled": 1, "pending": 1}, 0.5),
    ],
    ids=["one of four", "half a node", "who is not there does not count", "nobody is there", "no services"],
)
def test_progress_share_counts_services(fields: dict[str, int], share: float) -> None:
    assert progress.counts(Rollout(counts=NodeCounts(**fields))).share == share


def test_pace_counts_listed_nodes_without_counts() -> None:
    nodes: list[Any] = [
        NodeProgress(phase=NodeProgress.SETTLED, services_settled=2, services_total=2),
        NodeProgress(phase=NodeProgress.CONVERGING, services_settled=1, services_total=2),
    ]
    record = progress.counts(Rollout(nodes=nodes))
    assert (record.nodes, record.settled, record.moving) == (2, 1, 1)
    assert progress.progress_text(record) == "1/2 nodes, 3/4 services"
