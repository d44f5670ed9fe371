"""Questions to a node view and to a snapshot of an environment."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.record import M, Record
from tests.unit.controller.builders import REF, node

UNREADABLE = MalformedRecord("/t/k", "Thing", "no JSON")


def record(message: M) -> Record[M]:
    return Record("/t/k", message, None, 1, 1)


def assignment(release: int, *, removed: bool = False, generation: int = 1) -> pb.Assignment:
    return pb.Assignment(node="n1", node_uid="uid-n1", release=release, generation=generation, removed=removed)


def status(release: int, phase: pb.AssignmentStatus.Phase.ValueType, generation: int = 1) -> pb.AssignmentStatus:
    return pb.AssignmentStatus(node="n1", node_uid="uid-n1", release=release, generation=generation, phase=phase)


SETTLED = pb.AssignmentStatus.SETTLED


@pytest.mark.parametrize(
    ("view", "reachable"),
    [
        pytest.param(NodeView("n1"), False, id="not registered"),
        pytest.param(NodeView("n1", record(node("n1"))), False, id="no heartbeat"),
        pytest.param(NodeView("n1", record(node("n1")), record(pb.Heartbeat(uid="uid-n1"))), True, id="same machine"),
        pytest.param(NodeView("n1", record(node("n1")), record(pb.Heartbeat(uid="old"))), False, id="earlier machine"),
        pytest.param(
            NodeView("n1", record(node("n1")), record(pb.Heartbeat(uid="uid-n1", without_engine=True))),
            False,
            id="no Docker Engine",
        ),
        pytest.param(
            NodeView("n1", record(node("n1")), Record("/t/k", None, UNREADABLE, 1, 1)), True, id="unreadable heartbeat"
        ),
    ],
)
def test_node_is_reachable_with_a_heartbeat_of_its_machine(view: NodeView, *, reachable: bool) -> None:
    assert view.is_reachable is reachable


@pytest.mark.parametrize(
    ("view", "release"),
    [
        pytest.param(NodeView("n1"), 0, id="nothing"),
        pytest.param(NodeView("n1", assignment=record(assignment(2))), 2, id="assigned"),
        pytest.param(NodeView("n1", assignment=record(assignment(2, removed=True))), 0, id="tombstone"),
        pytest.param(NodeView("n1", status=record(status(3, SETTLED))), 3, id="lost assignment"),
        pytest.param(NodeView("n1", status=record(status(3, pb.AssignmentStatus.REMOVED))), 0, id="removed"),
    ],
)
def test_current_release_is_assigned_or_reported(view: NodeView, release: int) -> None:
    assert view.current_release == release


def test_node_has_settled_at_the_reported_generation_only() -> None:
    view = NodeView("n1", status=record(status(2, SETTLED, generation=4)))
    assert view.has_settled(assignment(2, generation=4))
    assert not view.has_settled(assignment(2, generation=5))


def test_last_settled_is_read_from_the_history() -> None:
    outcomes = [
        pb.RolloutOutcome(release=2, phase=pb.Rollout.FAILED),
        pb.RolloutOutcome(release=1, phase=pb.Rollout.SETTLED),
    ]
    rollout = pb.Rollout(release=3, phase=pb.Rollout.PROGRESSING, history=outcomes)
    assert EnvironmentSnapshot(REF, rollout=record(rollout)).last_settled(3) == 1


def test_last_settled_without_a_record_is_on_most_nodes() -> None:
    nodes = [
        NodeView(name, assignment=record(assignment(release)), status=record(status(release, SETTLED)))
        for name, release in (("n1", 1), ("n2", 1), ("n3", 2))
    ]
    assert EnvironmentSnapshot(REF, nodes=nodes).last_settled(3) == 1


FAILED = pb.AssignmentStatus.FAILED


@pytest.mark.parametrize(
    ("nodes", "number", "expected"),
    [
        pytest.param([(2, 1, SETTLED), (2, 1, SETTLED)], 3, 2, id="all nodes have settled"),
        pytest.param([(2, 1, SETTLED), (2, 1, SETTLED), (2, 1, FAILED)], 3, 1, id="one has failed"),
        pytest.param([(4, 1, SETTLED), (2, 1, SETTLED), (2, 1, SETTLED)], 5, 1, id="most were left at a bad release"),
        pytest.param([(3, 2, FAILED), (2, 1, SETTLED), (2, 1, SETTLED)], 3, 2, id="in the middle of the newest"),
        pytest.param([(2, 1, SETTLED), (2, 1, SETTLED)], 2, 1, id="at the end of the newest"),
        pytest.param([(2, 0, SETTLED), (2, 0, FAILED), (1, 0, SETTLED)], 3, 1, id="of an earlier version, one failed"),
        pytest.param([(1, 0, FAILED)], 2, 0, id="nothing has settled"),
        pytest.param([], 2, 0, id="no nodes"),
    ],
)
def test_last_settled_without_a_record_has_settled_everywhere(
    nodes: list[tuple[int, int, pb.AssignmentStatus.Phase.ValueType]], number: int, expected: int
) -> None:
    views = []
    for index, (release, last_settled, phase) in enumerate(nodes):
        assigned = assignment(release)
        assigned.last_settled = last_settled
        views.append(NodeView(f"n{index}", assignment=record(assigned), status=record(status(release, phase))))
    assert EnvironmentSnapshot(REF, nodes=views).last_settled(number) == expected


def test_recall_works_out_once_for_equal_inputs() -> None:
    view, results = NodeView("n1"), iter(range(9))
    assert [view.recall("topic", (value,), lambda: next(results)) for value in ("a", "a", "b", "a")] == [0, 0, 1, 2]
