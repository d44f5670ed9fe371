"""Which service runs on which node, and why on none."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.placement import placed_on, why_nowhere
from tests.unit.controller.builders import node, service

WEB, REDIS = service("web"), service("redis", "worker")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["web"], ["web"]),
        (["worker"], ["redis"]),
        (["web", "worker"], ["redis", "web"]),
        ([], []),
        (["gpu"], []),
    ],
)
def test_a_node_runs_the_services_whose_kind_is_among_its_labels(labels: list[str], expected: list[str]) -> None:
    assert [one.name for one in placed_on(node("n1", *labels), [REDIS, WEB])] == expected


def test_a_cordoned_node_takes_nothing() -> None:
    assert placed_on(node("n1", "web", cordoned=True), [WEB]) == []


@pytest.mark.parametrize(
    ("service_", "nodes", "expected"),
    [
        (
            REDIS,
            [node("n1", "web"), node("n2", "web")],
            'no attached node is labelled "worker", which service "redis" needs; '
            "run devopsellence node label set n1 --labels web,worker",
        ),
        (
            WEB,
            [],
            'no node is attached, so service "web" runs nowhere; run devopsellence node attach <node>',
        ),
        (
            REDIS,
            [node("n1", "web"), node("n2", "worker", cordoned=True)],
            'every attached node that could run service "redis" is cordoned (n2); run devopsellence node uncordon n2',
        ),
        (
            workload_pb2.Service(name="odd"),
            [node("n1", "web")],
            'the release does not say of what kind service "odd" is; deploy again',
        ),
        (WEB, [node("n1", "worker"), node("n2", "web")], ""),
    ],
    ids=["label", "nothing attached", "cordoned", "no kind", "placed"],
)
def test_the_filter_that_leaves_no_node_says_why(
    service_: workload_pb2.Service, nodes: list[pb.Node], expected: str
) -> None:
    assert why_nowhere(service_, nodes) == expected
