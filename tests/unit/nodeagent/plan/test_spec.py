"""Spec hashes, container names, and problems of services and assignments."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.plan.spec import (
    assignment_problem,
    pull_reference,
    resolve_assignment,
    service_problem,
    spec_hash,
)
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.planning import ENV, IMAGE, REMOTE, STARTED, UID, desired_of, full_service, service

Change = Callable[[workload_pb2.Service], object]


def test_spec_hash_is_stable_across_versions() -> None:
    # Another value here replaces every container of every installation at its next deploy.
    assert spec_hash(full_service()) == "16e7881acb39b60a26ba24f41d44c463e033f22777ca76626321083d088b553b"


MATTERS: dict[str, Change] = {
    "image": lambda s: setattr(s.image, "pinned", REMOTE),
    "command": lambda s: s.command.append("x"),
    "args": lambda s: s.args.append("x"),
    "args in another order": lambda s: s.args.reverse(),
    "env": lambda s: s.env.update({"A": "1"}),
    "secret": lambda s: s.secret_refs.add(name="A", secret="B"),
    "volume": lambda s: s.volumes.add(source="x", target="/x"),
    "cpu": lambda s: setattr(s.resources, "cpu_millis", 1),
    "memory": lambda s: setattr(s.resources, "memory_mib", 1),
    "grace": lambda s: s.stop_grace_period.FromSeconds(0),
    "new privileges": lambda s: setattr(s.security, "new_privileges", True),
    "new privileges as by default": lambda s: setattr(s.security, "new_privileges", False),
    "pids limit": lambda s: setattr(s.security, "pids_limit", 1),
    "capability": lambda s: s.security.cap_add.append("NET_RAW"),
    "name": lambda s: setattr(s, "name", "other"),
}
DOES_NOT: dict[str, Change] = {
    "the name of the image": lambda s: setattr(s.image, "reference", "shop:2"),
    "ports": lambda s: s.ports.add(name="metrics", port=9090),
    "check": lambda s: setattr(s.healthcheck, "path", "/other"),
    "readiness": lambda s: setattr(s.readiness, "tcp_port", 1),
    "dependencies": lambda s: s.depends_on.add(service="db"),
    "security without settings": lambda s: s.security.SetInParent(),
    "kind": lambda s: setattr(s, "kind", workload_pb2.Service.WORKER),
}


@pytest.mark.parametrize("what", MATTERS)
def test_changed_fields_change_the_hash(what: str) -> None:
    spec = full_service()
    MATTERS[what](spec)
    assert spec_hash(spec) != spec_hash(full_service())


@pytest.mark.parametrize("what", DOES_NOT)
def test_ignored_fields_keep_the_hash(what: str) -> None:
    spec = full_service()
    DOES_NOT[what](spec)
    assert spec_hash(spec) == spec_hash(full_service())


def test_spec_hash_ignores_order_of_maps_and_volumes() -> None:
    one, two = service(), service()
    one.env.update({"A": "1", "B": "2"})
    two.env.update({"B": "2", "A": "1"})
    one.volumes.add(source="a", target="/a")
    one.volumes.add(source="b", target="/b")
    two.volumes.add(source="b", target="/b")
    two.volumes.add(source="a", target="/a")
    assert spec_hash(one) == spec_hash(two)


def test_names_are_valid_in_docker_and_unique() -> None:
    env = EnvironmentRef("Acme", "Shop-A", "prod")
    name = names.container_name(UID, env, "Web.1", "0" * 64)
    assert re.fullmatch(r"shop-a-prod-web\.1-[0-9a-f]{10}", name)
    assert names.network_name(UID, env) != names.network_name(UID, EnvironmentRef("Acme", "Shop", "A-prod"))
    assert names.network_name(UID, env) != names.network_name(UID, EnvironmentRef("acme", "shop-a", "prod"))
    assert names.volume_name(UID, env, "data") != names.volume_name("another machine", env, "data")
    assert names.container_name(UID, env, "web", "1" * 64) != names.container_name(UID, env, "web", "2" * 64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: setattr(s.image, "pinned", ""), "not pinned"),
        (lambda s: setattr(s.image, "pinned", "redis:7"), "'redis:7'"),
        (lambda s: setattr(s.healthcheck, "path", "/up HTTP/1.1\r\nX: y"), "health check's path"),
        (lambda s: setattr(s.healthcheck, "path", "/up"), "no port"),
    ],
)
def test_impossible_service_is_reported(change: Change, says: str) -> None:
    spec = service()
    assert service_problem(spec) == ""
    change(spec)
    if spec.HasField("healthcheck") and "path" in says:
        spec.healthcheck.port = 3000
    assert says in service_problem(spec)


def test_assignment_that_contradicts_its_key_is_a_problem() -> None:
    assignment = stored_pb2.Assignment(node="n1", organization="acme", project="shop", environment="production")
    assert assignment_problem(assignment, "n1", ENV) == ""
    assert "'n1'" in assignment_problem(assignment, "n2", ENV)
    assert assignment_problem(assignment, "n1", EnvironmentRef("acme", "shop", "staging"))
    assignment.services.add(name="web")
    assignment.services.add(name="web")
    assert "twice" in assignment_problem(assignment, "n1", ENV)
    assignment.services[0].name = "../../etc"
    assert "../../etc" in assignment_problem(assignment, "n1", ENV)


def test_only_registry_digests_can_be_pulled() -> None:
    assert pull_reference(REMOTE) == ("registry.example/shop", "sha256:" + "b" * 64)
    assert pull_reference(IMAGE) is None


def test_circular_dependencies_are_a_problem() -> None:
    goal = desired_of(
        service(after={"db": STARTED}), service("db", after={"web": STARTED}), service("x", after={"db": STARTED})
    )
    assert goal.services["web"].problem == "it depends on itself: web → db → web"
    assert goal.services["x"].problem == ""


def test_tombstone_has_no_desired_services() -> None:
    spec = stored_pb2.Assignment(node="n1", removed=True, services=[service()])
    assert resolve_assignment(spec, ENV, UID).services == {}
