"""Services moved by a change of labels."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Node
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.cli.deploy.replicas import CurrentCopies, current_copies
from devopsellence.cli.nodes.moves import ServiceMove, service_moves
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "Shop", "production")
WEB = Service(name="web", kind=Service.WEB)
REDIS = Service(name="redis", kind=Service.WORKER, volumes=[VolumeMount(source="data", target="/data")])


def node(name: str, *labels: str, cordoned: bool = False) -> Node:
    return Node(name=name, labels=labels, cordoned=cordoned)


def moved(before: Node, after: Node, *others: Node) -> list[tuple[str, bool, tuple[str, ...], bool]]:
    moves = service_moves(REF, [WEB, REDIS], before, after, others, CurrentCopies())
    return [(move.service, move.starts, move.elsewhere, move.nowhere) for move in moves]


@pytest.mark.parametrize(
    ("before", "after", "others", "expected"),
    [
        pytest.param(["web"], ["web"], [], [], id="nothing changes"),
        pytest.param(["web"], ["web", "worker"], [], [("redis", True, (), False)], id="a service starts"),
        pytest.param(["web", "worker"], ["web"], [], [("redis", False, (), True)], id="its only copy stops"),
        pytest.param(
            ["web", "worker"],
            ["web"],
            [node("n2", "worker")],
            [("redis", False, ("n2",), False)],
            id="another node runs it too",
        ),
        pytest.param(
            ["worker"],
            ["web"],
            [node("n2", "worker", cordoned=True)],
            [("web", True, (), False), ("redis", False, ("n2",), False)],
            id="a cordoned node keeps what it runs",
        ),
        pytest.param(["web"], [], [node("n2", "worker")], [("web", False, (), True)], id="no label is left"),
    ],
)
def test_label_change_moves_services(
    before: list[str], after: list[str], others: list[Node], expected: list[object]
) -> None:
    assert moved(node("n1", *before), node("n1", *after), *others) == expected


def test_cordoned_node_gains_and_loses_nothing() -> None:
    assert moved(node("n1", "web", cordoned=True), node("n1", "worker", cordoned=True)) == []


def test_move_text_names_volumes_left_behind() -> None:
    (stops,) = service_moves(REF, [REDIS], node("n1", "worker"), node("n1", "web"), [], CurrentCopies())
    assert stops.text() == (
        'acme/Shop/production: redis stops on n1, which is not labelled "worker" (labels: web) (nowhere else); '
        "its volumes (data) stay on n1"
    )
    starts = ServiceMove(REF, "web", "n1", True, "", ("n2", "n3"), ())
    assert starts.text() == "acme/Shop/production: web starts on n1 (also on n2, n3)"


JOBS = Service(name="jobs", kind=Service.WORKER, replicas=2)


def running(*names: str) -> CurrentCopies:
    """The copies if ``JOBS`` runs on the nodes ``names``."""
    assigned = {name: Assignment(services=[JOBS]) for name in names}
    return current_copies([JOBS], [node(name) for name in names], assigned)


@pytest.mark.parametrize(
    ("before", "after", "others", "expected"),
    [
        pytest.param(
            ["worker"],
            ["web"],
            [node("n2", "worker"), node("n3", "worker")],
            [
                'jobs stops on n1, which is not labelled "worker" (labels: web) (also on n2, n3, 2 of 2 replicas)',
                "jobs starts on n3 (also on n2, 2 of 2 replicas)",
            ],
            id="another node takes its place",
        ),
        pytest.param(
            ["worker"],
            ["web"],
            [node("n2", "worker"), node("n3", "worker", cordoned=True)],
            ['jobs stops on n1, which is not labelled "worker" (labels: web) (also on n2, 1 of 2 replicas)'],
            id="there is no other",
        ),
        pytest.param(
            ["worker"],
            ["web"],
            [],
            ['jobs stops on n1, which is not labelled "worker" (labels: web) (nowhere else, 0 of 2 replicas)'],
            id="it was the last",
        ),
    ],
)
def test_replicas_move_to_other_nodes(
    before: list[str], after: list[str], others: list[Node], expected: list[str]
) -> None:
    current = running("n1", *(other.name for other in others if other.name == "n2"))
    moves = service_moves(REF, [JOBS], node("n1", *before), node("n1", *after), others, current)
    assert [move.text().removeprefix(f"{REF}: ") for move in moves] == expected
    assert [move.nowhere for move in moves] == ["nowhere" in text for text in expected]


def test_complete_replicas_do_not_move() -> None:
    others = [node("n2", "worker"), node("n3", "worker")]
    assert service_moves(REF, [JOBS], node("n1", "web"), node("n1", "worker"), others, running("n2", "n3")) == []


def test_move_text_names_volumes_that_go_with_the_service() -> None:
    service = Service(name="redis", kind=Service.WORKER)
    service.volumes.add(source="redis_volume_data", target="/data", from_image=True)
    (stops,) = service_moves(REF, [service], node("n1", "worker"), node("n1", "web"), [], CurrentCopies())
    assert stops.text().endswith("(nowhere else); its data in volumes of its image (redis_volume_data) is removed")
    assert stops.document()["removed_volumes"] == ["redis_volume_data"]
    (starts,) = service_moves(REF, [service], node("n1", "web"), node("n1", "worker"), [], CurrentCopies())
    assert "removed" not in starts.text()
