"""Secrets on their way into a container: which are missing, which cannot be used, and that no error tells a value."""

from __future__ import annotations

import traceback

import pytest

from devopsellence.age import AgeIdentity, encrypt
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.plan.container_config import service_container_config, task_container_config
from devopsellence.nodeagent.plan.spec import Desired, assignment_problem, resolve_assignment, spec_hash
from devopsellence.nodeagent.secrets import SecretDecrypter, SecretError, reencrypted_specs
from devopsellence.store.keys import REGISTRY
from tests.unit.nodeagent.planning import ENV, UID, service

IDENTITY = AgeIdentity.generate()
DECRYPTER = SecretDecrypter(IDENTITY)


def user(version: int = 1) -> workload_pb2.Service:
    spec = service(volume=True)
    spec.env["PASSWORD"] = "of the service"
    spec.secret_refs.add(name="PASSWORD", secret="DB", version=version)
    return spec


def want(*values: tuple[str, str, int, bytes], registry: stored_pb2.Registry | None = None) -> Desired:
    """An assignment of a user of secret DB, with these secrets (service, name, version, value)."""
    return resolve_assignment(assignment(*values, registry=registry), ENV, UID)


def assignment(
    *values: tuple[str, str, int, bytes], registry: stored_pb2.Registry | None = None
) -> stored_pb2.Assignment:
    secrets = [
        stored_pb2.SealedSecret(service=owner, name=name, version=version, age=encrypt(value, [IDENTITY.recipient]))
        for owner, name, version, value in values
    ]
    return stored_pb2.Assignment(
        node="n1", organization="acme", project="shop", environment="production", release=4, services=[user()],
        secrets=secrets, registry=registry,
    )  # fmt: skip


def test_secret_version_changes_the_spec_hash() -> None:
    assert spec_hash(user(1)) != spec_hash(user(2))


def test_missing_secret_is_a_problem_with_a_fix() -> None:
    text = "secret DB (version 1) was not sent to this node; run devopsellence deploy"
    for values in ((), (("web", "DB", 2, b"x"),), (("other", "DB", 1, b"x"),), (("web", "OTHER", 1, b"x"),)):
        assert want(*values).services["web"].problem == text
    assert want(("web", "DB", 1, b"x")).services["web"].problem == ""
    with pytest.raises(SecretError, match="was not sent to this node"):
        DECRYPTER.environ(want(), user())


@pytest.mark.parametrize("name", ["", "A=B", "A\0B"])
def test_invalid_variable_name_is_a_problem(name: str) -> None:
    spec = service()
    spec.secret_refs.add(name=name, secret="DB", version=1)
    service_plan = resolve_assignment(stored_pb2.Assignment(services=[spec]), ENV, UID).services["web"].problem
    assert "which is not valid" in service_plan


def test_secret_overrides_task_env_overrides_service_env() -> None:
    goal = want(("web", "DB", 1, b"secret"))
    wanted = goal.services["web"]
    secrets = DECRYPTER.environ(goal, wanted.spec)
    assert service_container_config(wanted, goal, secrets)["Env"] == ["PASSWORD=secret", "VERSION=1"]
    task = workload_pb2.Task(name="t", service="web", env={"PASSWORD": "of the task", "VERSION": "2", "MORE": "3"})
    assert task_container_config(wanted, goal, task, secrets, one_off=False)["Env"] == [
        "MORE=3",
        "PASSWORD=secret",
        "VERSION=2",
    ]


def test_task_container_has_no_service_alias() -> None:
    goal = want(("web", "DB", 1, b"secret"))
    task = workload_pb2.Task(name="t", service="web", command=["/migrate"], args=["--all"])
    body = task_container_config(goal.services["web"], goal, task, {}, one_off=True, interactive=True, tty=True)
    assert (body["Entrypoint"], body["Cmd"]) == (["/migrate"], ["--all"])
    assert body["NetworkingConfig"] == {"EndpointsConfig": {goal.network: {}}}
    assert body["HostConfig"]["Mounts"][0]["Target"] == "/data"
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert (body["OpenStdin"], body["StdinOnce"], body["Tty"]) == (True, True, True)
    labels = body["Labels"]
    assert (labels["devopsellence.task"], labels["devopsellence.one_off"]) == ("t", "true")
    assert (labels["devopsellence.release"], labels["devopsellence.service"]) == ("4", "web")
    assert labels["devopsellence.hash"] != goal.services["web"].hash
    released = task_container_config(goal.services["web"], goal, task, {}, one_off=False)
    assert "devopsellence.one_off" not in released["Labels"]
    assert not released["OpenStdin"]


@pytest.mark.parametrize(
    ("value", "why"), [(b"\xffhidden", "is not UTF-8 text"), (b"hidden\0", "contains a NUL character")]
)
def test_invalid_value_is_refused_without_being_printed(value: bytes, why: str) -> None:
    goal = want(("web", "DB", 1, value))
    with pytest.raises(SecretError, match=why) as caught:
        DECRYPTER.environ(goal, goal.services["web"].spec)
    error: BaseException | None = caught.value
    assert "secret DB (version 1)" in str(error)
    while error is not None:
        assert "hidden" not in f"{error!r} {error.args}"
        error = error.__cause__ or error.__context__
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_secret_for_other_recipients_is_named() -> None:
    goal = want(("web", "DB", 1, b"hidden"))
    other = AgeIdentity.generate()
    with pytest.raises(SecretError, match=rf"secret DB \(version 1\): .*{other.recipient}"):
        SecretDecrypter(other).environ(goal, goal.services["web"].spec)


def test_registry_login() -> None:
    where = stored_pb2.Registry(repository="r.example/shop", username="robot", password_secret="R", password_version=3)
    given = (REGISTRY, "R", 3, b"hidden")
    assert DECRYPTER.registry_login(want(given, registry=where), "r.example/shop") == ("robot", "hidden")
    assert DECRYPTER.registry_login(want(given, registry=where), "r.example/other") is None
    assert DECRYPTER.registry_login(want(given), "r.example/shop") is None
    open_registry = stored_pb2.Registry(repository="r.example/shop")
    assert DECRYPTER.registry_login(want(registry=open_registry), "r.example/shop") is None
    with pytest.raises(SecretError, match=r"secret R \(version 3\)"):
        DECRYPTER.registry_login(want(registry=where), "r.example/shop")


def test_reencrypted_secret_is_tried_again() -> None:
    first, again = want(("web", "DB", 1, b"x")), want(("web", "DB", 1, b"x"))
    assert reencrypted_specs(first, again) == [("web", first.services["web"].hash)]
    assert reencrypted_specs(first, first) == reencrypted_specs(None, first) == reencrypted_specs(first, None) == []


def test_task_without_its_service_is_a_problem() -> None:
    message = assignment(("web", "DB", 1, b"x"))
    message.task.CopyFrom(workload_pb2.Task(name="release", service="web"))
    assert assignment_problem(message, "n1", ENV) == ""
    assert resolve_assignment(message, ENV, UID).task_service is not None
    message.task.service = "api"
    assert "service 'api'" in assignment_problem(message, "n1", ENV)
    message.task_service.name = "api"
    assert assignment_problem(message, "n1", ENV) == ""
    message.task.name = "../x"
    assert "../x" in assignment_problem(message, "n1", ENV)
