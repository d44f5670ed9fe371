"""Placement of replicas; changes move no unrelated replica."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from devopsellence.api.v1.stored_pb2 import Drain, Node
from devopsellence.api.v1.workload_pb2 import Service, VolumeMount
from devopsellence.placement import (
    FILTERS,
    Copy,
    CopyRank,
    HeldCopies,
    Placement,
    UnreachableFilter,
    compute_placement,
    why_short,
    why_stuck,
)

SEEDS = range(60)
# By service and node: the rank of the copy.
Ranks = Mapping[str, Mapping[str, int]]


def existing(ranks: Ranks) -> HeldCopies:
    """Copies that are equal but for their ranks."""
    return HeldCopies(
        {name: {node: Copy(CopyRank(rank)) for node, rank in copies.items()} for name, copies in ranks.items()}
    )


def jobs(replicas: int, name: str = "jobs") -> Service:
    return Service(name=name, kind=Service.WORKER, replicas=replicas)


def node(name: str, *, labels: str = "worker", cordoned: bool = False, drain: Drain | None = None) -> Node:
    return Node(name=name, labels=labels.split(), cordoned=cordoned or drain is not None, drain=drain)


def nodes(*names: str) -> list[Node]:
    return [node(name) for name in names]


N1234 = nodes("n1", "n2", "n3", "n4")
CORDONED = [node("n1", cordoned=True), *nodes("n2", "n3")]
DRAINED = [node("n1", drain=Drain()), *nodes("n2", "n3")]
GONE = UnreachableFilter({"n1": "unreachable"}, frozenset({"n1"}))


@pytest.mark.parametrize(
    ("services", "given", "held", "expected"),
    [
        pytest.param([jobs(2)], N1234, {}, ["n1", "n2"], id="by name"),
        pytest.param([jobs(2)], N1234, {"jobs": {"n3": 0}}, ["n1", "n3"], id="it stays where it is"),
        pytest.param([jobs(1), jobs(2, "a")], N1234, {}, ["n3"], id="where the fewest run"),
        pytest.param(
            [jobs(1), Service(name="web", kind=Service.WEB)],
            [node("n1", labels="web worker"), node("n2")],
            {},
            ["n2"],
            id="what runs everywhere counts",
        ),
        pytest.param([jobs(9)], N1234, {}, ["n1", "n2", "n3", "n4"], id="more than nodes"),
        pytest.param([jobs(1)], N1234, {"jobs": {"n1": 0, "n2": 1}}, ["n2"], id="the better copy stays"),
        pytest.param(
            [jobs(1), jobs(1, "a")],
            N1234,
            {"jobs": {"n1": 0, "n2": 0}, "a": {"n1": 0}},
            ["n2"],
            id="it leaves where the most run",
        ),
        pytest.param([jobs(2)], CORDONED, {"jobs": {"n1": 0}}, ["n1", "n2"], id="a cordoned node's copy counts"),
        pytest.param(
            [jobs(1)], CORDONED, {"jobs": {"n1": 0, "n2": 0}}, ["n1"], id="which cannot be taken away is not too many"
        ),
        pytest.param([jobs(2)], CORDONED, {}, ["n2", "n3"], id="a cordoned node takes nothing"),
        pytest.param([jobs(2)], DRAINED, {"jobs": {"n1": 0, "n3": 0}}, ["n2", "n3"], id="a drained node's copy moves"),
        pytest.param(
            [jobs(2)], nodes("n2"), {"jobs": {"n1": 0}}, ["n1", "n2"], id="a node that cannot be read keeps its"
        ),
        pytest.param(
            [jobs(1)],
            [node("n1", labels="web"), node("n2")],
            {"jobs": {"n1": 0}},
            ["n2"],
            id="another label, another node",
        ),
    ],
)
def test_replica_placement(services: list[Service], given: list[Node], held: Ranks, expected: list[str]) -> None:
    assert list(compute_placement(services, given, existing(held)).replica_placements["jobs"].nodes) == expected


def test_replicas_leave_lost_nodes_except_with_volumes() -> None:
    filters = (*FILTERS, GONE)
    held = {"jobs": {"n1": 0}}
    assert compute_placement([jobs(1)], nodes("n1", "n2"), existing(held), filters).replica_placements[
        "jobs"
    ].nodes == ("n2",)
    data = Service(name="jobs", kind=Service.WORKER, replicas=1, volumes=[VolumeMount(source="a", target="/a")])
    found = compute_placement([data], nodes("n1", "n2"), existing(held), filters).replica_placements["jobs"]
    assert (found.nodes, found.fixed) == (("n1",), {"n1": "unreachable"})


def test_services_by_node() -> None:
    web = Service(name="web", kind=Service.WEB)
    found = compute_placement([web, jobs(1)], [node("n1", labels="web worker"), node("n2", labels="web")], existing({}))
    assert found.services == {"n1": {"web", "jobs"}, "n2": {"web"}}
    assert (found.nodes_of("web"), found.nodes_of("jobs"), found.nodes_of("x")) == (("n1", "n2"), ("n1",), ())


@pytest.mark.parametrize(
    ("service", "given", "held", "expected"),
    [
        pytest.param(jobs(2), N1234, {}, "", id="enough"),
        pytest.param(
            jobs(3),
            [node("n1"), node("n2", cordoned=True), node("n3", labels="web"), node("n4", drain=Drain())],
            {},
            'service "jobs" needs 3 replicas, but 1 attached node may run it (n2: cordoned; n3: not labelled '
            '"worker" (labels: web); n4: being drained); run devopsellence node uncordon n2',
            id="each refused node",
        ),
        pytest.param(
            jobs(1),
            [node(f"n{number}", labels="web") for number in range(8)],
            {},
            'service "jobs" needs 1 replica, but no attached node may run it ('
            + "; ".join(f'n{number}: not labelled "worker" (labels: web)' for number in range(5))
            + "; and 3 more); run devopsellence node label set <node> --labels web,worker",
            id="many refused",
        ),
        pytest.param(
            jobs(3),
            nodes("n1", "n2"),
            {},
            'service "jobs" needs 3 replicas, but 2 attached nodes may run it; run devopsellence node attach <node>',
            id="none refused",
        ),
    ],
)
def test_missing_replicas_name_rejected_nodes(service: Service, given: list[Node], held: Ranks, expected: str) -> None:
    found = compute_placement([service], given, existing(held)).replica_placements["jobs"]
    assert str(why_short(found, given) or "") == expected


def test_kept_placements_are_reported_when_nothing_fits() -> None:
    stuck = compute_placement([jobs(1)], CORDONED, existing({"jobs": {"n1": 0}})).replica_placements["jobs"]
    assert str(why_stuck(stuck, CORDONED)) == (
        'service "jobs" runs only on nodes that take no new copies (n1: cordoned); run devopsellence node uncordon n1'
    )
    assert (
        why_stuck(
            compute_placement([jobs(2)], CORDONED, existing({"jobs": {"n1": 0}})).replica_placements["jobs"], CORDONED
        )
        is None
    )


# What holds for any cluster


class Cluster:
    """Some services on some nodes, at rest."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes = [
            node(f"n{number:02}", labels=self.random.choice(["worker", "worker", "web worker", "web"]))
            for number in range(self.random.randint(3, 12))
        ]
        self.services = [jobs(self.random.randint(1, 6), f"s{number}") for number in range(self.random.randint(1, 5))]
        self.services.append(Service(name="web", kind=Service.WEB))

    def settle(self) -> Ranks:
        return held(compute_placement(self.services, self.nodes, existing({})))

    def matching(self) -> list[str]:
        return [each.name for each in self.nodes if "worker" in each.labels]


def held(found: Placement) -> dict[str, dict[str, int]]:
    return {name: dict.fromkeys(each.nodes, 1) for name, each in found.replica_placements.items()}


def places(found: Placement) -> set[tuple[str, str]]:
    return {(name, node) for name, each in found.replica_placements.items() for node in each.nodes}


@pytest.mark.parametrize("seed", SEEDS)
def test_replicas_are_spread_evenly(seed: int) -> None:
    cluster = Cluster(seed)
    found = compute_placement(cluster.services, cluster.nodes, existing({}))
    matching = cluster.matching()
    for name, each in found.replica_placements.items():
        assert len(each.nodes) == min(each.service.replicas, len(matching)), name
        assert set(each.nodes) <= set(matching)
    # The last one was placed with all others in sight: nowhere is it beside more than it needs to be.
    load = {name: len(found.services[name]) for name in matching}
    last = found.replica_placements[max(found.replica_placements)].nodes
    free = [load[name] for name in matching if name not in last]
    assert not free or not last or max(load[name] for name in last) <= min(free) + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_placement_is_stable_in_any_order(seed: int) -> None:
    cluster = Cluster(seed)
    before = cluster.settle()
    cluster.random.shuffle(cluster.nodes)
    cluster.random.shuffle(cluster.services)
    assert held(compute_placement(cluster.services, cluster.nodes, existing(before))) == before
    assert held(compute_placement(cluster.services, cluster.nodes, existing({}))) == before


@pytest.mark.parametrize("seed", SEEDS)
def test_new_node_or_service_moves_no_replica(seed: int) -> None:
    cluster = Cluster(seed)
    # All have their nodes, so that none waits for one.
    cluster.services = [
        jobs(min(service.replicas, len(cluster.matching())) or 1, service.name) for service in cluster.services
    ]
    before = compute_placement(cluster.services, cluster.nodes, existing({}))
    if not cluster.matching():
        return
    after = compute_placement(
        [*cluster.services, jobs(2, "a-new-one")], [*cluster.nodes, node("n00-new")], existing(held(before))
    )
    assert {compute_placement for compute_placement in places(after) if compute_placement[0] != "a-new-one"} == places(
        before
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", ["drained", "gone", "other labels", "detached"])
def test_only_the_copies_of_a_lost_node_move(seed: int, way: str) -> None:
    cluster = Cluster(seed)
    before = compute_placement(cluster.services, cluster.nodes, existing({}))
    lost = cluster.random.choice(cluster.nodes)
    rest = [each for each in cluster.nodes if each is not lost]
    gone = UnreachableFilter({lost.name: "unreachable"}, frozenset({lost.name}))
    instead = {
        "drained": [node(lost.name, labels=" ".join(lost.labels), drain=Drain())],
        "gone": [lost],
        "other labels": [node(lost.name, labels="gpu")],
        "detached": [],
    }[way]
    held_before = held(before)
    if way == "detached":
        held_before = {
            name: {n: s for n, s in copies.items() if n != lost.name} for name, copies in held_before.items()
        }
    filters = (*FILTERS, gone) if way == "gone" else FILTERS
    after = compute_placement(cluster.services, [*rest, *instead], existing(held_before), filters)
    stayed = {(name, where) for name, where in places(before) if where != lost.name}
    assert stayed <= places(after), "what did not run on the lost node stays"
    assert all(where != lost.name for _, where in places(after))
    free = len([name for name in cluster.matching() if name != lost.name])
    for name, each in after.replica_placements.items():
        assert len(each.nodes) == min(each.service.replicas, free), name


@pytest.mark.parametrize("seed", SEEDS)
def test_scaling_moves_no_other_replica(seed: int) -> None:
    cluster = Cluster(seed)
    before = compute_placement(cluster.services, cluster.nodes, existing({}))
    chosen = cluster.random.choice([service for service in cluster.services if service.replicas])
    scaled = jobs(cluster.random.randint(1, 8), chosen.name)
    services = [scaled if service is chosen else service for service in cluster.services]
    after = compute_placement(services, cluster.nodes, existing(held(before)))
    moved = places(before) ^ places(after)
    assert {name for name, _ in moved} <= {chosen.name}
    old, new = (set(each.replica_placements[chosen.name].nodes) for each in (before, after))
    assert old <= new or new <= old
