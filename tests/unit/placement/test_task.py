"""Order of the nodes for the release task."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Dependency, Image, Service, VolumeMount
from devopsellence.placement import Copy, CopyRank, HeldCopies, compute_placement, task_nodes

ALL = ("n1", "n2", "n3")


def web(*needs: str) -> Service:
    depends_on = [Dependency(service=name) for name in needs]
    return Service(name="web", kind=Service.WEB, image=Image(app=True), depends_on=depends_on)


def store(name: str = "redis", *, replicas: int = 1, data: bool = True) -> Service:
    volumes = [VolumeMount(source=name, target="/data")] if data else []
    return Service(name=name, kind=Service.WORKER, replicas=replicas, volumes=volumes)


def node(name: str, labels: str = "web worker") -> Node:
    return Node(name=name, labels=labels.split())


@pytest.mark.parametrize(
    ("services", "copies", "labels", "unreachable", "expected"),
    [
        pytest.param([web()], {}, {}, (), ["n1", "n2", "n3"], id="by name"),
        pytest.param([web()], {}, {}, ("n1",), ["n2", "n3", "n1"], id="reachable first"),
        pytest.param([web("redis"), store()], {"redis": "n2"}, {}, (), ["n2", "n1", "n3"], id="beside the database"),
        pytest.param(
            [web("redis"), store()], {"redis": "n2"}, {}, ("n2",), ["n2", "n1", "n3"], id="data is waited for"
        ),
        pytest.param(
            [web("cache"), store("cache", data=False)],
            {"cache": "n2"},
            {},
            ("n2",),
            ["n1", "n3", "n2"],
            id="a cache is not waited for",
        ),
        pytest.param(
            [web("redis"), store(replicas=0)], {}, {"n1": "web"}, (), ["n2", "n3", "n1"], id="label of a dependency"
        ),
        pytest.param(
            [web(), store()], {"redis": "n3 n1"}, {}, (), ["n3", "n2", "n1"], id="never beside data that leaves"
        ),
        pytest.param([web(), store()], {"redis": "n2"}, {}, (), ["n2", "n1", "n3"], id="dependency that is not said"),
        pytest.param(
            [web("jobs"), store("jobs", data=False, replicas=3), store()],
            {"jobs": "n1 n2 n3", "redis": "n3"},
            {},
            (),
            ["n3", "n1", "n2"],
            id="most of the rest",
        ),
    ],
)
def test_task_node_order(
    services: list[Service],
    copies: dict[str, str],
    labels: dict[str, str],
    unreachable: tuple[str, ...],
    expected: list[str],
) -> None:
    nodes = [node(name, labels.get(name, "web worker")) for name in ALL]
    # The first of the copies is chosen.
    held = HeldCopies(
        {
            name: {where: Copy(CopyRank.CHOSEN, age=age) for age, where in enumerate(nodes_of.split())}
            for name, nodes_of in copies.items()
        }
    )
    placement = compute_placement(services, nodes, held)
    assert task_nodes(services[0], services, nodes, placement, held, unreachable) == expected
