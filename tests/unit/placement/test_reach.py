"""Dependencies that a service does not reach, because the two do not run on the same nodes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Dependency, Service
from devopsellence.placement import HeldCopies, UnreachableDependency, compute_placement, unreachable_dependencies

STARTED, COMPLETED = Dependency.SERVICE_STARTED, Dependency.SERVICE_COMPLETED_SUCCESSFULLY
BOTH = [Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web", "worker"])]
APART = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["worker"])]


def web(condition: Dependency.Condition.ValueType = STARTED, on: str = "redis") -> Service:
    return Service(name="web", kind=Service.WEB, depends_on=[Dependency(service=on, condition=condition)])


def redis(replicas: int = 0) -> Service:
    return Service(name="redis", kind=Service.WORKER, replicas=replicas)


@pytest.mark.parametrize(
    ("services", "nodes", "expected"),
    [
        pytest.param([web(), redis()], BOTH, [], id="together"),
        pytest.param([web(), redis()], APART, [("web", "redis", ("n1",), False)], id="apart"),
        pytest.param([web(), redis(replicas=1)], BOTH, [("web", "redis", ("n2",), False)], id="fewer replicas"),
        pytest.param([web(), redis(replicas=2)], BOTH, [], id="as many replicas"),
        pytest.param([web(COMPLETED), redis()], APART, [("web", "redis", ("n1",), True)], id="to complete elsewhere"),
        pytest.param([web(on="elsewhere"), redis()], APART, [], id="not a service of the release"),
        pytest.param([web(), redis()], [], [], id="no nodes"),
    ],
)
def test_unreachable_dependencies_if(
    services: Sequence[Service], nodes: Sequence[Node], expected: Sequence[tuple[str, str, tuple[str, ...], bool]]
) -> None:
    found = unreachable_dependencies(services, compute_placement(services, nodes, HeldCopies()))
    assert found == [UnreachableDependency(*fields) for fields in expected]


def test_sentence_names_at_most_five_nodes() -> None:
    nodes = tuple(f"n{number}" for number in range(1, 9))
    sentence = str(UnreachableDependency("web", "redis", nodes))
    assert "does not run on n1, n2, n3, n4, n5 and 3 more, and a service reaches only" in sentence
