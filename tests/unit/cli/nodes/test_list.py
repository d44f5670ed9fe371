"""Entries of ``node list``."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import (
    Assignment,
    AssignmentStatus,
    DiskSpace,
    Drain,
    Heartbeat,
    Node,
    NodeProgress,
    Rollout,
)
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.cli.nodes.list import HEADER, NodeState, disk_text, listed_node, unreachable_since
from devopsellence.cli.nodes.registry import NodeOverview
from devopsellence.cli.nodes.workload import NodeWorkload
from devopsellence.store.keys import EnvironmentRef

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = EnvironmentRef("acme", "shop", "production")
BEAT = Heartbeat(node="n1", uid="u", agent_version="0.4", docker_version="20.10")
CORDONED = Node(name="n1", uid="u", cordoned=True)
DRAINING = Node(name="n1", uid="u", cordoned=True, drain=Drain())
REDIS = Service(name="redis", volumes=[VolumeMount(source="data", target="/data")])


def at(minutes_ago: int) -> Timestamp:
    return Timestamp(seconds=int(NOW.timestamp()) - 60 * minutes_ago)


def overview(node: Node | None, beat: Heartbeat | None) -> NodeOverview:
    return NodeOverview("n1", node, beat, ("acme/shop/production",))


def looks(*services: Service) -> dict[str, NodeWorkload]:
    assignments = {REF: Assignment(services=services)}
    return {"n1": NodeWorkload("n1", DRAINING, BEAT, assignments, {REF: AssignmentStatus(node_uid="u")})}


@pytest.mark.parametrize(
    ("node", "beat", "services", "state"),
    [
        (None, BEAT, (), NodeState.UNREADABLE),
        (CORDONED, None, (), NodeState.UNREACHABLE),
        (DRAINING, Heartbeat(uid="before"), (), NodeState.REPLACED),
        (CORDONED, Heartbeat(uid="u", without_engine=True), (), NodeState.UNREACHABLE),
        (Node(name="n1", uid="u"), BEAT, (), NodeState.READY),
        (CORDONED, BEAT, (), NodeState.CORDONED),
        (DRAINING, BEAT, (Service(name="web"),), NodeState.DRAINING),
        (DRAINING, BEAT, (REDIS,), NodeState.DRAINED),
        (DRAINING, BEAT, (), NodeState.DRAINED),
    ],
)
def test_worst_condition_is_the_state(
    node: Node | None, beat: Heartbeat | None, services: tuple[Service, ...], state: NodeState
) -> None:
    entry = listed_node(overview(node, beat), looks(*services), {})
    assert entry.state is state
    assert entry.document()["state"] == state.value
    assert len(entry.cells(NOW)) == len(HEADER)


def test_unreachable_node_has_its_start_time() -> None:
    unreachable = NodeProgress(node="n1", phase=NodeProgress.UNREACHABLE, since=at(3))
    earlier = NodeProgress(node="n1", phase=NodeProgress.UNREACHABLE, since=at(5))
    settled = NodeProgress(node="n2", phase=NodeProgress.SETTLED, since=at(9))
    silent = unreachable_since([Rollout(nodes=[unreachable, settled]), Rollout(nodes=[earlier]), Rollout()])
    assert silent == {"n1": at(5)}
    gone = listed_node(overview(CORDONED, None), {}, silent)
    assert gone.cells(NOW)[1] == "unreachable for 5m"
    assert gone.document()["unreachable_since"] == "2026-03-01T11:55:00Z"
    assert gone.note == "no heartbeat: the agent is not running or cannot reach etcd; cordoned"
    # It is back, and no controller has noticed yet.
    assert listed_node(overview(CORDONED, BEAT), {}, silent).document()["unreachable_since"] is None


def test_services_left_on_drained_node_are_noted() -> None:
    entry = listed_node(overview(DRAINING, BEAT), looks(REDIS), {})
    assert entry.note == "redis stays because of its volumes"
    assert entry.document()["stays"] == ["redis"]


def test_two_agents_with_one_uid_are_named() -> None:
    beat = Heartbeat(uid="u", instance="a1", hostname="host-a", problem="Docker does not answer")
    beat.others.add(instance="b2", hostname="host-\x1bb", started_at=at(3))
    beat.others.add(instance="c3")
    entry = listed_node(overview(Node(name="n1", uid="u"), beat), {}, {})
    assert entry.state is NodeState.READY
    assert entry.note.startswith(
        "Docker does not answer; 3 agents run with the uid of this node: a1 on host-a, b2 on host-"
    )
    assert "\x1b" not in entry.note
    assert "c3 on an unnamed host; stop all but one" in entry.note
    assert entry.document()["agent_instance"] == "a1"
    assert [agent["instance"] for agent in entry.document()["other_agents"]] == ["b2", "c3"]


@pytest.mark.parametrize(
    ("beat", "note"),
    [
        (BEAT, ""),
        (Heartbeat(uid="u", folder_problem="disk full"), "disk full"),
        (Heartbeat(uid="u", folder_problem="disk full", problem="no Docker"), "no Docker"),
    ],
    ids=["none", "folder", "the engine counts first"],
)
def test_problem_of_the_agent_is_the_note(beat: Heartbeat, note: str) -> None:
    assert overview(Node(name="n1", uid="u"), beat).note == note


@pytest.mark.parametrize(
    ("beat", "text"),
    [
        (None, ""),
        (BEAT, ""),
        (Heartbeat(disk=DiskSpace(total_mib=100 * 1024, free_mib=45 * 1024)), "45 of 100 GiB"),
        (Heartbeat(disk=DiskSpace(total_mib=5 * 1024, free_mib=1536)), "1.5 of 5.0 GiB"),
    ],
    ids=["no heartbeat", "not known", "large", "small"],
)
def test_disk_space_is_formatted(beat: Heartbeat | None, text: str) -> None:
    assert disk_text(beat) == text


@pytest.mark.parametrize(
    ("left", "shown", "note"),
    [
        (None, None, ""),
        (0, 0, "no network is left for another environment"),
        (2, 2, ""),
    ],
)
def test_networks_left_are_in_the_document(left: int | None, shown: int | None, note: str) -> None:
    beat = Heartbeat(node="n1", uid="u", networks_left=left)
    entry = listed_node(overview(Node(name="n1", uid="u"), beat), {}, {})
    assert (entry.document()["networks_left"], entry.note) == (shown, note)
