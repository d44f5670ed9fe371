"""Lookup of a request's environment, services and containers."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from devopsellence.nodeagent.api import targets
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.planning import container, desired_of, service

ENV = EnvironmentRef("acme", "shop", "production")


def test_known_environment_is_found() -> None:
    assert targets.parsed(str(ENV)) == ENV
    targets.check_environment("n1", str(ENV), [str(ENV)])


@pytest.mark.parametrize(
    ("path", "known", "code", "message"),
    [
        ("acme/shop", [], grpc.StatusCode.INVALID_ARGUMENT, "'acme/shop' is not organization/project/environment"),
        ("", [], grpc.StatusCode.INVALID_ARGUMENT, "'' is not organization/project/environment"),
        ("a/b/c", [], grpc.StatusCode.NOT_FOUND, "environment a/b/c is not on node n1; environments here: none"),
        (
            "a/b/c",
            ["d/e/f"],
            grpc.StatusCode.NOT_FOUND,
            "environment a/b/c is not on node n1; environments here: d/e/f",
        ),
        (
            "a/b/c",
            ["g/h/i", "d/e/f"],
            grpc.StatusCode.NOT_FOUND,
            "environment a/b/c is not on node n1; environments here: d/e/f, g/h/i",
        ),
    ],
)
def test_unknown_target_is_refused(path: str, known: list[str], code: grpc.StatusCode, message: str) -> None:
    with pytest.raises(CallRefused) as caught:
        targets.check_environment("n1", str(targets.parsed(path)), known)
    assert (caught.value.code, caught.value.message) == (code, message)


def test_services_are_assigned_or_have_a_container() -> None:
    web, old = service("web"), service("old")
    task = replace(container(service("job")), task="migrate")
    assert targets.services(desired_of(web), [container(old), task]) == {"web", "old"}
    assert targets.services(None, [container(old)]) == {"old"}


def test_unknown_service_is_refused_with_the_known_ones() -> None:
    targets.check_services(ENV, "n1", ["web"], {"web", "db"})
    with pytest.raises(CallRefused, match="has no service 'api' on node n1; services here: db, web"):
        targets.check_services(ENV, "n1", ["web", "api"], {"web", "db"})


def test_logs_include_all_started_containers_but_no_task() -> None:
    web, db = service("web"), service("db")
    old = container(web, ContainerState.EXITED, identity="old", release=1)
    new = container(web, identity="new", release=2)
    created = container(web, ContainerState.CREATED, identity="created", release=3)
    job = replace(container(web, identity="job"), task="migrate")
    other = container(db, identity="db")
    containers = [new, job, created, other, old]
    assert [container_.id for container_ in targets.with_output(containers, [])] == ["db", "old", "new"]
    assert [container_.id for container_ in targets.with_output(containers, ["web"])] == ["old", "new"]


def test_command_prefers_the_desired_spec_then_the_newest() -> None:
    first, second, third = (service("web", version) for version in "123")
    old = container(first, identity="old", since=10.0)
    new = container(second, identity="new", since=20.0)
    assert _running([old, new], desired_of(first)) == "old"
    assert _running([old, new], desired_of(second)) == "new"
    assert _running([old, new], desired_of(third)) == "new"
    assert _running([old, new]) == "new"


@pytest.mark.parametrize(
    ("states", "states_text"),
    [([], "no container"), ([ContainerState.EXITED, ContainerState.PAUSED, ContainerState.EXITED], "exited, paused")],
)
def test_stopped_service_is_refused_with_running_ones(states: list[ContainerState], states_text: str) -> None:
    containers = [container(service("web"), state, identity=str(number)) for number, state in enumerate(states)]
    with pytest.raises(CallRefused) as caught:
        _running(containers)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.message == f"no container of web is running on node n1 ({states_text})"


def test_task_container_is_not_a_service() -> None:
    with pytest.raises(CallRefused):
        _running([replace(container(service("web")), task="migrate")])


def _running(containers: list[Container], desired: Desired | None = None) -> str:
    return targets.running(desired, containers, "web", "n1").id
