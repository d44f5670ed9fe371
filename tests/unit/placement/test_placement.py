from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.placement import label_needed, may_run, services_for_node, unplaced_services, why_not, why_nowhere

WEB = Service(name="web", kind=Service.WEB)
REDIS = Service(name="redis", kind=Service.WORKER)
ODD = Service(name="odd")


def node(*labels: str, name: str = "n1") -> Node:
    return Node(name=name, labels=labels)


@pytest.mark.parametrize(
    ("service", "labels", "runs"),
    [
        (WEB, ["web"], True),
        (WEB, ["worker"], False),
        (WEB, [], False),
        (REDIS, ["web", "worker"], True),
        (REDIS, ["web"], False),
        # A node can be labelled anything; a service without a kind must not match a label "".
        (ODD, ["web", "worker", ""], False),
    ],
)
def test_node_runs_the_services_whose_kind_is_among_its_labels(service: Service, labels: list[str], runs: bool) -> None:
    assert may_run(service, node(*labels)) is runs
    assert (why_not(service, node(*labels)) == "") is runs


def test_missing_label_names_existing_labels() -> None:
    assert why_not(REDIS, node("web")) == 'not labelled "worker" (labels: web)'
    assert why_not(WEB, node()) == 'not labelled "web" (labels: none)'


def test_unplaced_services_are_listed_in_order() -> None:
    assert unplaced_services([WEB, REDIS, ODD], [node("web"), node("web", name="n2")]) == [REDIS, ODD]
    assert unplaced_services([WEB, REDIS], [node("web"), node("worker", name="n2")]) == []
    assert unplaced_services([WEB], []) == [WEB]


def test_unknown_kind_runs_nowhere() -> None:
    assert label_needed(ODD) == ""


def test_cordoned_node_takes_nothing() -> None:
    cordoned = Node(name="n1", labels=["web"], cordoned=True)
    assert services_for_node(cordoned, [WEB]) == []
    assert why_not(WEB, cordoned) == "cordoned"


@pytest.mark.parametrize(
    ("service", "nodes", "expected"),
    [
        (
            REDIS,
            [node("web"), node("web", name="n2")],
            'no attached node is labelled "worker", which service "redis" needs; '
            "run devopsellence node label set <node> --labels web,worker",
        ),
        (
            REDIS,
            [node("gpu", "web")],
            'no attached node is labelled "worker", which service "redis" needs; '
            "run devopsellence node label set n1 --labels gpu,web,worker",
        ),
        (WEB, [], 'no node is attached, so service "web" runs nowhere; run devopsellence node attach <node>'),
        (
            REDIS,
            [node("web"), Node(name="n2", labels=["worker"], cordoned=True)],
            'every attached node that could run service "redis" is cordoned (n2); run devopsellence node uncordon n2',
        ),
        (ODD, [node("web")], 'the release does not state the kind of service "odd"; run devopsellence deploy'),
        (WEB, [node("worker"), node("web", name="n2")], ""),
    ],
    ids=["label", "one node", "nothing attached", "cordoned", "no kind", "placed"],
)
def test_last_rejecting_filter_explains(service: Service, nodes: list[Node], expected: str) -> None:
    assert str(why_nowhere(service, nodes) or "") == expected
