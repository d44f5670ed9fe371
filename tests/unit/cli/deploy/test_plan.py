from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Drain, Node
from devopsellence.api.v1.workload_pb2 import (
    Dependency,
    HealthCheck,
    Image,
    Port,
    Readiness,
    RolloutPolicy,
    SecretRef,
    Service,
    VolumeMount,
)
from devopsellence.cli.deploy.plan import (
    WITHOUT_RESTART,
    ChangeKind,
    ServiceChange,
    differences,
    headline,
    nodes_at_a_time,
    plan,
    rollout_order,
    summary,
)
from devopsellence.cli.deploy.replicas import CurrentCopies, current_copies
from devopsellence.nodeagent.plan.spec import spec_hash

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
N1 = Node(name="n1", labels=["web", "worker"])


def web(pinned: str = OLD, *, reference: str = "shop:1", **more: Any) -> Service:
    image = Image(reference=reference, pinned=pinned, app=True)
    return Service(name="web", kind=Service.WEB, image=image, **more)


def redis(pinned: str = OLD) -> Service:
    return Service(name="redis", kind=Service.WORKER, image=Image(reference="redis:7", pinned=pinned))


def assigned(*services: Service, **more: Any) -> dict[str, Assignment]:
    return {"n1": Assignment(node="n1", services=services, **more)}


@pytest.mark.parametrize(
    ("services", "before", "expected"),
    [
        ([web()], {}, ServiceChange("n1", "web", ChangeKind.CREATED, "first release on this node")),
        ([web()], assigned(), ServiceChange("n1", "web", ChangeKind.CREATED, "not on this node yet")),
        # A tombstone holds nothing.
        (
            [web()],
            assigned(web(), removed=True),
            ServiceChange("n1", "web", ChangeKind.CREATED, "not on this node yet"),
        ),
        ([web()], assigned(web()), ServiceChange("n1", "web", ChangeKind.KEPT, "nothing changed")),
        # A name is for people; the same bytes under another name restart nothing.
        ([web(reference="shop:2")], assigned(web()), ServiceChange("n1", "web", ChangeKind.KEPT, "nothing changed")),
        (
            [web(NEW)],
            assigned(web()),
            ServiceChange("n1", "web", ChangeKind.REPLACED, "image shop:1 (aaaaaaaaaaaa) → shop:1 (bbbbbbbbbbbb)"),
        ),
        ([], assigned(web()), ServiceChange("n1", "web", ChangeKind.REMOVED, "no longer in the configuration")),
        (
            [web("")],
            assigned(web()),
            ServiceChange(
                "n1",
                "web",
                ChangeKind.REPLACED,
                "only if the image differs: the app image is rebuilt",
                certain=False,
            ),
        ),
        (
            [redis("")],
            assigned(redis()),
            ServiceChange(
                "n1", "redis", ChangeKind.REPLACED, "only if the image differs: redis:7 is pulled", certain=False
            ),
        ),
        # Something else changed as well, so the image does not matter.
        (
            [web("", args=["serve"])],
            assigned(web()),
            ServiceChange("n1", "web", ChangeKind.REPLACED, "args changed"),
        ),
        # Another port or check is no other container.
        (
            [web(ports=[Port(name="http", port=1)], readiness=Readiness(tcp_port=1))],
            assigned(web()),
            ServiceChange("n1", "web", ChangeKind.KEPT, "ports, readiness changed, which needs no restart"),
        ),
        (
            [web(secret_refs=[SecretRef(name="KEY", secret="API", version=2)])],
            assigned(web(secret_refs=[SecretRef(name="KEY", secret="API", version=1)])),
            ServiceChange("n1", "web", ChangeKind.REPLACED, "secret API changed"),
        ),
        # Which version there is is only asked when it matters.
        (
            [web(secret_refs=[SecretRef(name="KEY", secret="API")])],
            assigned(web(secret_refs=[SecretRef(name="KEY", secret="API", version=1)])),
            ServiceChange("n1", "web", ChangeKind.KEPT, "nothing changed"),
        ),
    ],
)
def test_service_changes_map_to_actions(
    services: list[Service], before: dict[str, Assignment], expected: ServiceChange
) -> None:
    assert plan(services, [N1], CurrentCopies(before)) == [expected]


def test_service_leaves_node_without_its_label() -> None:
    node = Node(name="n1", labels=["web"])
    assert plan([redis()], [node], CurrentCopies(assigned(redis()))) == [
        ServiceChange("n1", "redis", ChangeKind.REMOVED, 'node is not labelled "worker" (labels: web)')
    ]
    assert plan([redis()], [node], CurrentCopies()) == []


def jobs(replicas: int = 2, **more: Any) -> Service:
    image = Image(reference="shop:1", pinned=OLD, app=True)
    return Service(name="jobs", kind=Service.WORKER, image=image, replicas=replicas, **more)


def workers(*names: str) -> list[Node]:
    return [Node(name=name, labels=["worker"]) for name in names]


def holding(*names: str, replicas: int = 2) -> dict[str, Assignment]:
    return {name: Assignment(node=name, services=[jobs(replicas)]) for name in names}


@pytest.mark.parametrize(
    ("service", "before", "silent", "expected"),
    [
        pytest.param(
            jobs(),
            {},
            (),
            [("n1", ChangeKind.CREATED, "one of 2 replicas"), ("n2", ChangeKind.CREATED, "one of 2 replicas")],
            id="new",
        ),
        pytest.param(
            jobs(),
            holding("n2", "n3"),
            (),
            [("n2", ChangeKind.KEPT, "nothing changed"), ("n3", ChangeKind.KEPT, "nothing changed")],
            id="they stay",
        ),
        pytest.param(
            jobs(1),
            holding("n2", "n3"),
            (),
            [
                ("n2", ChangeKind.KEPT, "replicas changed, which needs no restart"),
                ("n3", ChangeKind.REMOVED, "its 1 replica runs on n2"),
            ],
            id="fewer",
        ),
        pytest.param(
            jobs(3),
            holding("n2", "n3"),
            (),
            [
                ("n1", ChangeKind.CREATED, "one of 3 replicas"),
                ("n2", ChangeKind.KEPT, "replicas changed, which needs no restart"),
                ("n3", ChangeKind.KEPT, "replicas changed, which needs no restart"),
            ],
            id="more",
        ),
        pytest.param(
            jobs(),
            holding("n2"),
            ("n1", "n2"),
            [("n2", ChangeKind.KEPT, "nothing changed"), ("n3", ChangeKind.CREATED, "one of 2 replicas")],
            id="a node that does not answer takes none",
        ),
    ],
)
def test_replicas_are_planned_by_placement(
    service: Service,
    before: dict[str, Assignment],
    silent: tuple[str, ...],
    expected: list[tuple[str, ChangeKind, str]],
) -> None:
    nodes = workers("n1", "n2", "n3")
    steps = plan([service], nodes, current_copies([service], nodes, before, unreachable=frozenset(silent)))
    assert [(step.node, step.kind, step.reason) for step in steps] == expected


@pytest.mark.parametrize(
    ("service", "drain", "expected"),
    [
        pytest.param(
            web(NEW),
            None,
            ServiceChange("n1", "web", ChangeKind.KEPT, "node is cordoned, so the service stays unchanged"),
            id="cordoned",
        ),
        pytest.param(
            web(NEW), Drain(), ServiceChange("n1", "web", ChangeKind.REMOVED, "node is being drained"), id="drained"
        ),
        pytest.param(
            web(NEW, volumes=[VolumeMount(source="data", target="/data")]),
            Drain(),
            ServiceChange("n1", "web", ChangeKind.KEPT, "node is being drained, so the service stays unchanged"),
            id="drained, with a volume",
        ),
    ],
)
def test_cordoned_node_keeps_its_services(service: Service, drain: Drain | None, expected: ServiceChange) -> None:
    node = Node(name="n1", labels=["web"], cordoned=True, drain=drain)
    assert plan([service, jobs()], [node], CurrentCopies(assigned(service))) == [expected]
    assert plan([service], [node], CurrentCopies()) == []


def test_changes_are_sorted_by_node_and_service() -> None:
    n2 = Node(name="n2", labels=["web"])
    steps = plan([web(NEW), redis()], [n2, N1], CurrentCopies(assigned(web(), redis())))
    assert [(step.node, step.service, step.kind) for step in steps] == [
        ("n1", "redis", ChangeKind.KEPT),
        ("n1", "web", ChangeKind.REPLACED),
        ("n2", "web", ChangeKind.CREATED),
    ]
    assert summary(steps) == "1 created, 1 replaced, 1 kept"
    assert (
        headline("a/b/c", 4, steps, [N1, n2]) == "a/b/c: release 5 on 2 nodes would be: 1 created, 1 replaced, 1 kept"
    )


def test_unchanged_release_has_no_actions() -> None:
    assert summary(plan([], [N1], CurrentCopies())) == "nothing to do"


def test_differences_name_variables_without_values() -> None:
    before = web(env={"A": "1", "B": "old-password", "C": "3"})
    after = web(env={"A": "1", "B": "new-password", "D": "4"}, args=["run"])
    changed = differences(before, after)
    assert changed == ["args changed", "env D added", "env B changed", "env C removed"]
    assert "password" not in str(changed)


def test_fields_without_restart_match_the_agents_hash() -> None:
    plain = web()
    changed = {
        "kind": {"kind": Service.WORKER},
        "ports": {"ports": [Port(name="http", port=1)]},
        "healthcheck": {"healthcheck": HealthCheck(path="/up", port=1)},
        "readiness": {"readiness": Readiness(tcp_port=1)},
        "depends_on": {"depends_on": [Dependency(service="redis")]},
        "completes": {"completes": True},
        "replicas": {"replicas": 2},
    }
    assert changed.keys() == WITHOUT_RESTART
    for field, value in changed.items():
        other = Service()
        other.CopyFrom(plain)
        other.ClearField(field)  # type: ignore[arg-type]
        other.MergeFrom(Service(**value))  # type: ignore[arg-type]
        assert spec_hash(other) == spec_hash(plain), field


BACK = "if a node fails, all nodes roll back to the last release that settled"


@pytest.mark.parametrize(
    ("written", "halt", "cordoned", "text"),
    [
        ("25%", False, 0, f"1 of 4 nodes at a time (max_parallel 25%); {BACK}"),
        ("3", True, 0, "3 of 4 nodes at a time (max_parallel 3); if a node fails, the rollout halts"),
        ("100%", False, 0, f"all 4 nodes at once (max_parallel 100%); {BACK}"),
        # Who takes no part does not count.
        ("50%", False, 2, f"1 of 2 nodes at a time (max_parallel 50%); {BACK}"),
        ("1", False, 3, ""),
    ],
    ids=["share", "count", "all", "cordoned", "one node"],
)
def test_rollout_order_names_batch_size_and_failure(written: str, halt: bool, cordoned: int, text: str) -> None:
    nodes = [Node(name=f"n{number}", cordoned=number < cordoned) for number in range(4)]
    policy = RolloutPolicy(max_parallel=written, on_failure=RolloutPolicy.HALT if halt else RolloutPolicy.ROLLBACK)
    assert rollout_order(policy, nodes) == text
    assert nodes_at_a_time(policy, nodes) <= 4 - cordoned
