"""Preview of a drain."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Drain, Node
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.cli.nodes.drain_preview import (
    DrainPreview,
    OtherNode,
    drained_services,
    forwarded_ingress,
    refusal,
)
from devopsellence.cli.nodes.workload import NodeWorkload
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
WEB = Service(name="web", kind=Service.WEB)
STATEFUL = Service(name="web", kind=Service.WEB, volumes=[VolumeMount(source="data", target="/data")])
REDIS = Service(name="redis", kind=Service.WORKER, volumes=[VolumeMount(source="data", target="/data")])


def other(
    *labels: str, reachable: bool = True, runs: tuple[str, ...] = (), cordoned: bool = False, draining: bool = False
) -> OtherNode:
    node = Node(name="n2", uid="u2", labels=labels, cordoned=cordoned, drain=Drain() if draining else None)
    return OtherNode(node, reachable, frozenset(runs))


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([other("web")], ""),
        ([other("web", cordoned=True, runs=("web",))], ""),
        ([], "no other node is attached"),
        ([other("worker")], 'n2 is not labelled "web" (labels: worker)'),
        ([other("web", cordoned=True)], "n2 is cordoned"),
        ([other("web", reachable=False, runs=("web",))], "n2 is not reachable"),
        ([other("web", draining=True, cordoned=True, runs=("web",))], "n2 is being drained"),
    ],
    ids=["may run", "cordoned, but runs it", "alone", "label", "cordoned", "unreachable", "draining"],
)
def test_drained_service_has_other_nodes_or_a_reason(others: list[OtherNode], why: str) -> None:
    (drained,) = drained_services(REF, [WEB], others, move_volumes=False)
    assert (drained.why_nowhere, drained.nowhere) == (why, bool(why))
    assert ("would run nowhere" in drained.text("n1")) is bool(why)


def test_service_with_volumes_stays_unless_moved() -> None:
    (stays,) = drained_services(REF, [REDIS], [], move_volumes=False)
    assert (stays.stays, stays.nowhere) == (True, False)
    assert "redis stays on n1 with its data (data)" in stays.text("n1")
    (moves,) = drained_services(REF, [REDIS], [other("worker")], move_volumes=True)
    assert moves.elsewhere == ("n2",)
    assert "its data (data) stays behind on n1" in moves.text("n1")


@pytest.mark.parametrize(
    ("services", "others", "nodes"),
    [
        ([WEB], [other("web")], [("n2",)]),
        ([WEB, REDIS], [other("web")], [("n2",)]),
        ([WEB], [other("web", reachable=False)], [()]),
        ([], [other("web")], []),
        ([STATEFUL], [other("web")], []),
    ],
    ids=["elsewhere", "another service stays", "nowhere", "nothing leaves", "the target stays"],
)
def test_drained_node_forwards_what_leaves(
    services: list[Service], others: list[OtherNode], nodes: list[tuple[str, ...]]
) -> None:
    assignment = Assignment(services=services)
    assignment.ingress.hosts.append("app.example.com")
    assignment.ingress.rules.add(host="app.example.com", service="web")
    drained = drained_services(REF, services, others, move_volumes=False)
    found = list(forwarded_ingress(REF, assignment, drained, others))
    assert [ingress.nodes for ingress in found] == nodes
    for ingress in found:
        assert "app.example.com" in ingress.text("n1")


def test_refusal_names_services_and_force() -> None:
    shown = DrainPreview(NodeWorkload("n1"), tuple(drained_services(REF, [WEB, REDIS], [], move_volumes=True)), ())
    error = refusal(shown, "devopsellence node drain n1 --force")
    assert error is not None
    assert error.code == "node_drain_unplaced"
    assert error.message == "redis, web would run nowhere after draining node n1"
    assert len(error.findings) == 2
    assert error.next_actions[-1].command == "devopsellence node drain n1 --force"
    assert (
        refusal(
            DrainPreview(
                NodeWorkload("n1"), tuple(drained_services(REF, [WEB], [other("web")], move_volumes=True)), ()
            ),
            "",
        )
        is None
    )


def test_data_of_a_volume_that_only_the_image_declares_is_said_to_be_removed() -> None:
    service = Service(name="redis", kind=Service.WORKER, volumes=REDIS.volumes)
    service.volumes.add(source="redis_volume_x", target="/x", from_image=True)
    (stays,) = drained_services(REF, [service], [], move_volumes=False)
    assert stays.text("n1").startswith("acme/shop/production: redis stays on n1 with its data (data, redis_volume_x)")
    assert stays.document()["removed_volumes"] == []
    (moves,) = drained_services(REF, [service], [other("worker")], move_volumes=True)
    assert moves.text("n1").endswith(
        "; its data (data) stays behind on n1; its data in volumes of its image (redis_volume_x) is removed"
    )
    assert moves.document()["removed_volumes"] == ["redis_volume_x"]
