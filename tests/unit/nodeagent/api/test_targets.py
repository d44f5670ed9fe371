"""What a request is about."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from devopsellence.nodeagent.api import targets
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.support import container, service, want

ENV = EnvironmentRef("acme", "shop", "production")


def test_an_environment_that_is_here() -> None:
    assert targets.environment("n1", str(ENV), [str(ENV)]) == ENV


@pytest.mark.parametrize(
    ("named", "known", "code", "sentence"),
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
def test_unknown_target_is_refused(named: str, known: list[str], code: grpc.StatusCode, sentence: str) -> None:
    with pytest.raises(CallRefused) as caught:
        targets.environment("n1", named, known)
    assert (caught.value.code, caught.value.message) == (code, sentence)


def test_services_are_those_assigned_and_those_that_still_have_a_container() -> None:
    web, old = service("web"), service("old")
    task = replace(container(service("job")), task="migrate")
    assert targets.services(want(web), [container(old), task]) == {"web", "old"}
    assert targets.services(None, [container(old)]) == {"old"}


def test_a_service_that_is_not_there_is_named_with_those_that_are() -> None:
    targets.check_services(ENV, "n1", ["web"], {"web", "db"})
    with pytest.raises(
        CallRefused, match="acme/shop/production has no service 'api' on node n1; services here: db, web"
    ):
        targets.check_services(ENV, "n1", ["web", "api"], {"web", "db"})


def test_logs_are_of_every_container_that_has_run_and_of_no_task() -> None:
    web, db = service("web"), service("db")
    old = container(web, ContainerState.EXITED, identity="old", release=1)
    new = container(web, identity="new", release=2)
    made = container(web, ContainerState.CREATED, identity="made", release=3)
    job = replace(container(web, identity="job"), task="migrate")
    other = container(db, identity="db")
    all_of_them = [new, job, made, other, old]
    assert [each.id for each in targets.with_output(all_of_them, [])] == ["db", "old", "new"]
    assert [each.id for each in targets.with_output(all_of_them, ["web"])] == ["old", "new"]


def test_a_command_runs_in_the_assigned_spec_if_that_runs_otherwise_in_the_newest() -> None:
    one, two, three = (service("web", version) for version in "123")
    old = container(one, identity="old", since=10.0)
    new = container(two, identity="new", since=20.0)
    assert _running([old, new], want(one)) == "old"
    assert _running([old, new], want(two)) == "new"
    assert _running([old, new], want(three)) == "new"
    assert _running([old, new]) == "new"


@pytest.mark.parametrize(
    ("states", "said"),
    [([], "no container"), ([ContainerState.EXITED, ContainerState.PAUSED, ContainerState.EXITED], "exited, paused")],
)
def test_stopped_service_is_refused_with_running_ones(states: list[ContainerState], said: str) -> None:
    containers = [container(service("web"), state, identity=str(number)) for number, state in enumerate(states)]
    with pytest.raises(CallRefused) as caught:
        _running(containers)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.message == f"no container of web is running on node n1 ({said})"


def test_a_tasks_container_is_no_service() -> None:
    with pytest.raises(CallRefused):
        _running([replace(container(service("web")), task="migrate")])


def _running(containers: list[Container], wanted: Desired | None = None) -> str:
    return targets.running(wanted, containers, "web", "n1").id
