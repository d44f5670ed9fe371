"""Verdict on the end of a schedule finds defects: otherwise a hundred good ends would mean nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.store.codec import encode
from devopsellence.store.keys import Keys
from devopsellence.store.types import KeyValue, WatchEvent
from tests.schedules.releases import HOST, REF, named, release
from tests.schedules.schedule import ReleaseQuality, ReleaseShape
from tests.schedules.verdict import ScheduleEnd, defects, regressions

KEYS = Keys()
GOOD, SICK = ReleaseShape(), ReleaseShape(ReleaseQuality.SICK)
SERVING = ReleaseShape(ingress=True)


def running(
    name: str, number: int, shape: ReleaseShape, state: ContainerState = ContainerState.RUNNING
) -> tuple[Container, ...]:
    """Return the containers of a release in good order."""
    return tuple(
        Container(
            f"{name}-{service.name}", service.name, str(REF), service.name, "", number, service.image.pinned, state
        )
        for service in release(number, shape, "").services
    )


def written(*records: tuple[str, Message]) -> dict[str, bytes]:
    return {key: encode(message) for key, message in records}


def rollout(**fields: Any) -> pb.Rollout:
    record = pb.Rollout(**named(), release=2, phase=pb.Rollout.SETTLED, history=[outcome(1, pb.Rollout.SETTLED)])
    record.MergeFrom(pb.Rollout(**fields))
    return record


def outcome(number: int, phase: pb.Rollout.Phase.ValueType) -> pb.RolloutOutcome:
    return pb.RolloutOutcome(release=number, phase=phase)


def assigned(number: int) -> tuple[str, Message]:
    return KEYS.assignment("n1", REF), pb.Assignment(node="n1", release=number)


def end(*, shape: ReleaseShape = GOOD, number: int = 2, **fields: Any) -> ScheduleEnd:
    """``n1`` attached to release 2 of ``shape``, running release ``number``."""
    values = written(
        (KEYS.environment(REF), pb.Environment(**named(), nodes=["n1"], latest_release=2)),
        (KEYS.node("n1"), pb.Node(name="n1", labels=["web", "worker"])),
        (KEYS.release(REF, 1), release(1, GOOD, "")),
        (KEYS.release(REF, 2), release(2, shape, "")),
        (KEYS.rollout(REF), rollout(**fields)),
        assigned(number),
    )
    return ScheduleEnd(
        KEYS, values, {1: GOOD, 2: shape}, {"n1": running("n1", number, GOOD)}, {"n1": 1}, [], {"n1": {}}
    )


def test_good_release_everywhere_has_no_defects() -> None:
    assert defects(end()) == []


def test_release_that_met_a_full_disk_may_fail() -> None:
    refused = "n1: web: the agent cannot write its folder state (x: No space left on device): free space on its disk"
    assert defects(end(phase=pb.Rollout.FAILED, number=1, target=1, reason=refused)) == []
    assert defects(end(phase=pb.Rollout.FAILED, number=1, target=1, reason="n1: web: not ready")) != []


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ({HOST: {"n1-web"}}, ""),
        ({}, "served by [] rather than"),
        ({HOST: {"n1-web", "older"}}, "served by ['n1-web', 'older'] rather than"),
        ({HOST: {"n1-web"}, "old.example.com": {"n1-web"}}, "old.example.com on n1 is not assigned"),
    ],
    ids=["as assigned", "by nothing", "also by an older one", "also another host"],
)
def test_hosts_are_served_by_the_assigned_release(served: dict[str, set[str]], expected: str) -> None:
    release_2 = release(2, SERVING, "")
    assignment = pb.Assignment(node="n1", release=2, services=release_2.services, ingress=release_2.ingress)
    serving = store(end(shape=SERVING), (KEYS.assignment("n1", REF), assignment))
    found = defects(replace(serving, served={"n1": served}))
    assert (expected in "".join(found)) if expected else not found


def test_rolled_back_release_has_no_defects() -> None:
    went_back = end(shape=SICK, number=1, phase=pb.Rollout.FAILED, target=1)
    assert defects(went_back) == []
    assert defects(end(shape=SICK, number=1, phase=pb.Rollout.ROLLING_BACK, target=1)) != []
    assert defects(end(shape=SICK, number=1, phase=pb.Rollout.FAILED, target=2)) != []
    assert defects(replace(went_back, values={**went_back.values, **written(assigned(2))})) != []


def hold(good: ScheduleEnd, *containers: Container) -> ScheduleEnd:
    return replace(good, containers={"n1": containers})


def store(good: ScheduleEnd, *records: tuple[str, Message]) -> ScheduleEnd:
    return replace(good, values={**good.values, **written(*records)})


def orphan(good: ScheduleEnd) -> ScheduleEnd:
    return replace(good, containers={**good.containers, "n2": running("n2", 2, GOOD)}, networks={"n1": 1, "n2": 0})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda good: hold(good, *running("n1", 1, GOOD)), "n1 should run", id="older"),
        pytest.param(
            lambda good: hold(good, *running("n1", 2, GOOD, ContainerState.EXITED)), "n1 should run", id="ended"
        ),
        pytest.param(lambda good: hold(good, *good.containers["n1"] * 2), "n1 should run", id="doubled"),
        pytest.param(orphan, "n2 is not attached", id="orphan"),
        pytest.param(lambda good: replace(good, networks={"n1": 2}), "2 networks", id="network"),
        pytest.param(
            lambda good: replace(good, tasks_started=[Counter({2: 1})] * 2), "started 2 times", id="task twice"
        ),
        pytest.param(lambda good: replace(good, shapes={2: GOOD}), "releases [2] were written", id="number lost"),
        pytest.param(lambda good: store(good, assigned(1)), "rather than 2", id="not moved"),
        pytest.param(
            lambda good: store(good, (KEYS.rollout(REF), rollout(phase=pb.Rollout.FAILED))), "is good, and", id="failed"
        ),
        pytest.param(lambda good: store(good, (KEYS.rollout(REF), pb.Rollout())), "the newest is 2", id="no rollout"),
    ],
)
def test_defect_is_found(spoil: Callable[[ScheduleEnd], ScheduleEnd], expected: str) -> None:
    assert any(expected in defect for defect in defects(spoil(end())))


@pytest.mark.parametrize(
    ("rollouts", "count"),
    [
        ([rollout(), rollout(reason="degraded")], 0),
        ([rollout(), rollout(phase=pb.Rollout.FAILED)], 1),
        ([rollout(), pb.Rollout(release=1)], 1),
        ([rollout(), None, rollout(phase=pb.Rollout.PROGRESSING)], 0),
        ([rollout(), None, pb.Rollout(release=1)], 1),
    ],
    ids=["settled", "settled no longer", "an older release", "deleted by hand", "an older release after a deletion"],
)
def test_rollouts_only_go_forward(rollouts: list[pb.Rollout | None], count: int) -> None:
    key = KEYS.rollout(REF)
    history = {
        revision: [
            WatchEvent(key, KeyValue(key, encode(record), 1, revision, 1, 0) if record is not None else None, revision)
        ]
        for revision, record in enumerate(rollouts, 1)
    }
    assert len(regressions(history, KEYS)) == count
