"""Workload of a node."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, Drain, Heartbeat, Node, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.cli.nodes.workload import NodeWorkload
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
WEB = Service(name="web")
REDIS = Service(name="redis", volumes=[VolumeMount(source="data", target="/data")])


def assigned(*services: Service, removed: bool = False) -> dict[EnvironmentRef, Assignment]:
    return {REF: Assignment(node_uid="u", services=services, removed=removed)}


def reported(*names: str, uid: str = "u", phase: str = "SETTLED") -> dict[EnvironmentRef, AssignmentStatus]:
    services = [ServiceStatus(name=name) for name in names]
    return {REF: AssignmentStatus(node_uid=uid, services=services, phase=AssignmentStatus.Phase.Value(phase))}


def seen(
    assignments: dict[EnvironmentRef, Assignment],
    statuses: dict[EnvironmentRef, AssignmentStatus],
    *,
    volumes: bool = False,
    problems: tuple[UnreadableKey, ...] = (),
) -> NodeWorkload:
    node = Node(name="n1", uid="u", cordoned=True, drain=Drain(volumes=volumes))
    return NodeWorkload("n1", node, Heartbeat(uid="u"), assignments, statuses, 1, problems)


@pytest.mark.parametrize(
    ("state", "runs"),
    [
        (seen(assigned(WEB), reported("web")), ["web"]),
        (seen(assigned(WEB), {}), ["web"]),
        (seen(assigned(), reported("web")), ["web"]),
        (seen(assigned(), reported()), []),
        (seen({}, reported("web")), ["web"]),
        (seen(assigned(WEB, removed=True), reported("web")), ["web"]),
        (seen(assigned(WEB, removed=True), reported(phase="REMOVED")), []),
        (seen(assigned(), reported("web", uid="before")), []),
        (seen({}, {}), []),
    ],
    ids=[
        "assigned and reported",
        "assigned, not yet reported",
        "on its way out",
        "gone",
        "reported without an assignment",
        "a tombstone that is being carried out",
        "a tombstone that was carried out",
        "the report of the machine before",
        "nothing",
    ],
)
def test_workload_lists_services_of_a_node(state: NodeWorkload, runs: list[str]) -> None:
    assert [service.service for service in state.running] == runs
    assert state.drained is (runs == [])


@pytest.mark.parametrize(("volumes", "leaving", "drained"), [(False, [], True), (True, ["redis"], False)])
def test_service_with_data_stays_unless_volumes_move(volumes: bool, leaving: list[str], drained: bool) -> None:
    state = seen(assigned(REDIS), reported("redis"), volumes=volumes)
    assert [service.service for service in state.leaving] == leaving
    assert state.drained is drained
    assert [service.volumes for service in state.running] == [("data",)]


def test_unreadable_record_is_not_empty() -> None:
    state = seen({}, {}, problems=(UnreadableKey("/status/n1/a", "not readable"),))
    assert not state.drained
    assert not state.empty


def test_node_without_drain_is_not_drained() -> None:
    assert not NodeWorkload("n1", Node(name="n1", uid="u"), None).drained


@pytest.mark.parametrize(
    ("heartbeat", "answers"), [(None, False), (Heartbeat(uid="before"), False), (Heartbeat(uid="u"), True)]
)
def test_node_is_reachable_only_with_its_uid(heartbeat: Heartbeat | None, answers: bool) -> None:
    assert NodeWorkload("n1", Node(name="n1", uid="u"), heartbeat).reachable is answers
