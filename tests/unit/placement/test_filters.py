"""Placement filters: rejected nodes, kept copies, reasons."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Drain, Node
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.placement import FILTERS, UnreachableFilter, why_leaves, why_not, why_nowhere

VOLUMES = [VolumeMount(source="data", target="/data")]
JOBS = Service(name="jobs", kind=Service.WORKER, replicas=2)
DATA = Service(name="jobs", kind=Service.WORKER, replicas=2, volumes=VOLUMES)
EVERYWHERE = Service(name="jobs", kind=Service.WORKER)
SILENT = UnreachableFilter({"n1": "unreachable"})
GONE = UnreachableFilter({"n1": "unreachable for more than 60 s"}, frozenset({"n1"}))


def node(*labels: str, cordoned: bool = False, drain: Drain | None = None) -> Node:
    return Node(name="n1", labels=labels or ["worker"], cordoned=cordoned or drain is not None, drain=drain)


@pytest.mark.parametrize(
    ("service", "where", "silence", "refused", "leaves"),
    [
        pytest.param(JOBS, node(), None, "", "", id="free"),
        pytest.param(
            JOBS,
            node("web"),
            None,
            'not labelled "worker" (labels: web)',
            'not labelled "worker" (labels: web)',
            id="label",
        ),
        pytest.param(JOBS, node(cordoned=True), None, "cordoned", "", id="cordoned"),
        pytest.param(JOBS, node(drain=Drain()), None, "being drained", "being drained", id="drained"),
        pytest.param(DATA, node(drain=Drain()), None, "being drained", "", id="drained, with a volume"),
        pytest.param(
            DATA, node(drain=Drain(volumes=True)), None, "being drained", "being drained", id="drained of volumes, too"
        ),
        pytest.param(JOBS, node(), SILENT, "unreachable", "", id="silent"),
        pytest.param(JOBS, node(), GONE, *["unreachable for more than 60 s"] * 2, id="gone"),
        pytest.param(DATA, node(), GONE, "unreachable for more than 60 s", "", id="gone, with a volume"),
        pytest.param(EVERYWHERE, node(), GONE, "", "", id="gone, but it runs on every node"),
    ],
)
def test_filters_refuse_new_and_keep_existing_copies(
    service: Service, where: Node, silence: UnreachableFilter | None, refused: str, leaves: str
) -> None:
    filters = (*FILTERS, silence) if silence is not None else FILTERS
    assert why_not(service, where, filters) == refused
    assert why_leaves(service, where, filters) == leaves


@pytest.mark.parametrize(
    ("where", "filters", "expected"),
    [
        pytest.param(
            node(drain=Drain()),
            FILTERS,
            'every attached node that could run service "jobs" is being drained (n1); '
            "run devopsellence node uncordon n1",
            id="drained",
        ),
        pytest.param(
            node(),
            (*FILTERS, GONE),
            'every attached node that could run service "jobs" is unreachable (n1); run devopsellence node diagnose n1',
            id="gone",
        ),
    ],
)
def test_unplaceable_service_is_explained(where: Node, filters: tuple[UnreachableFilter, ...], expected: str) -> None:
    assert str(why_nowhere(JOBS, [where], filters)) == expected
