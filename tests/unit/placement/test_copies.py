"""Rank of existing copies, and the record of a choice."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, Node, ReplicaNodes, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.placement import (
    Copy,
    CopyRank,
    CopyState,
    HeldCopies,
    NodeRecords,
    compute_placement,
    ranked_copies,
    record_choice,
)

REDIS = Service(name="redis", kind=Service.WORKER, replicas=1, volumes=[VolumeMount(source="data", target="/data")])
NODES = [Node(name=name, uid=f"uid-{name}", labels=["worker"]) for name in ("n1", "n2", "n3")]


def records(
    name: str,
    *,
    release: int = 1,
    generation: int = 1,
    phase: ServiceStatus.Phase.ValueType = ServiceStatus.RUNNING,
    reachable: bool = True,
    uid: str = "",
    since: int = 0,
) -> NodeRecords:
    """Records of a node that runs Redis; its agent has reported generation 1."""
    owner = f"uid-{name}"
    return NodeRecords(
        name,
        uid or owner,
        Assignment(node=name, node_uid=owner, generation=generation, release=release, services=[REDIS]),
        AssignmentStatus(node_uid=owner, generation=1, services=[ServiceStatus(name="redis", phase=phase)]),
        reachable,
        since,
    )


def recorded(settled: str = "", pending: str = "") -> list[ReplicaNodes]:
    return [ReplicaNodes(service="redis", settled=settled.split(), pending=pending.split())]


def stays(nodes: list[NodeRecords], before: list[ReplicaNodes]) -> str:
    """The node whose copy stays."""
    held = ranked_copies([REDIS], nodes, before, 2)
    (name,) = compute_placement([REDIS], NODES, held).replica_placements["redis"].nodes
    return name


STARTING = ServiceStatus.STARTING


@pytest.mark.parametrize(
    ("nodes", "before", "expected"),
    [
        pytest.param([records("n1"), records("n2")], [], "n1", id="equal: by name"),
        pytest.param([records("n1", since=9), records("n2", since=5)], [], "n2", id="the oldest"),
        pytest.param([records("n1"), records("n2")], recorded("n2 n1"), "n2", id="the oldest as recorded"),
        pytest.param([records("n1", phase=STARTING), records("n2")], [], "n2", id="one that runs"),
        pytest.param(
            [records("n1", phase=STARTING), records("n2")], recorded("n1"), "n1", id="the chosen one, while it restarts"
        ),
        pytest.param(
            [records("n1", reachable=False), records("n2")],
            recorded("n1"),
            "n1",
            id="the chosen one, while unreachable",
        ),
        pytest.param(
            [records("n1", reachable=False), records("n2")], recorded("n1 n2"), "n2", id="of two chosen, one that runs"
        ),
        pytest.param(
            [records("n1"), records("n2", phase=STARTING)], recorded("", "n2"), "n1", id="one that is being replaced"
        ),
        pytest.param([records("n1"), records("n2")], recorded("", "n2"), "n2", id="one that has been replaced"),
        pytest.param(
            [records("n1", generation=2), records("n2")], [], "n1", id="a changed assignment makes no difference"
        ),
        pytest.param(
            [records("n1", generation=2, release=2), records("n2")],
            recorded("n1"),
            "n1",
            id="one on its way to the release",
        ),
        pytest.param(
            [records("n1", uid="other"), records("n2")], recorded("n1"), "n2", id="not that of a former machine"
        ),
        pytest.param([], recorded("", "n3"), "n3", id="chosen, and not assigned yet"),
    ],
)
def test_surplus_copy_that_stays(nodes: list[NodeRecords], before: list[ReplicaNodes], expected: str) -> None:
    assert stays(nodes, before) == expected


@pytest.mark.parametrize(
    ("chosen", "nodes", "before", "expected"),
    [
        pytest.param(["n1", "n2"], [], [], recorded("", "n1 n2"), id="new"),
        pytest.param(["n1", "n2"], [records("n2")], recorded("", "n1 n2"), recorded("n2", "n1"), id="one has settled"),
        pytest.param(
            ["n1", "n2"],
            [records("n1"), records("n2")],
            recorded("n2", "n1"),
            recorded("n2 n1"),
            id="the one that settled first is the oldest",
        ),
        pytest.param(
            ["n1", "n2"],
            [records("n1", phase=STARTING), records("n2")],
            recorded("n1 n2"),
            recorded("n1 n2"),
            id="a restart makes nothing new",
        ),
        pytest.param(["n2"], [records("n1"), records("n2")], recorded("n1 n2"), recorded("n2"), id="fewer"),
        pytest.param(
            ["n1", "n2", "n3"],
            [records("n1", since=7), records("n2", since=3)],
            [],
            recorded("n2 n1", "n3"),
            id="without a record: by age",
        ),
        pytest.param(
            ["n1"], [records("n1", uid="other")], recorded("n1"), recorded("", "n1"), id="another machine begins anew"
        ),
        pytest.param(
            ["n1"], [records("n1", generation=2)], [], recorded("n1"), id="without a record: it ran a moment ago"
        ),
        pytest.param(
            ["n1"],
            [records("n1", generation=2)],
            recorded("", "n1"),
            recorded("", "n1"),
            id="an old report proves nothing",
        ),
    ],
)
def test_record_of_choice(
    chosen: list[str], nodes: list[NodeRecords], before: list[ReplicaNodes], expected: list[ReplicaNodes]
) -> None:
    held = ranked_copies([REDIS], nodes, before, 2)
    assert [record_choice("redis", chosen, held, before)] == expected


def test_unreadable_status_counts_as_running() -> None:
    node = records("n1")
    unreadable = NodeRecords("n1", node.uid, node.assignment, None, reachable=True, status_unreadable=True)
    absent = NodeRecords("n1", node.uid, node.assignment, None, reachable=True)
    assert ranked_copies([REDIS], [unreadable], [], 2).of("redis") == {"n1": Copy(CopyRank.SETTLED, CopyState.RAN)}
    assert ranked_copies([REDIS], [absent], [], 2).of("redis") == {"n1": Copy(CopyRank.NEW)}


def test_services_without_replicas_are_left_out() -> None:
    web = Service(name="web", kind=Service.WEB)
    assert ranked_copies([web], [records("n1")], recorded("n1"), 2) == HeldCopies()
