"""Sizes of releases and assignments, refused before anything is written."""

from __future__ import annotations

import pytest

from devopsellence.age import AgeIdentity, encrypt
from devopsellence.api.v1.stored_pb2 import Node, Release, Secret, SecretVersion
from devopsellence.api.v1.workload_pb2 import Image, SecretRef, Service, Task
from devopsellence.cli.deploy.replicas import CurrentCopies
from devopsellence.cli.deploy.size import RECIPIENT_BYTES, growth_of, predicted, references, too_large
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.codec import encode
from devopsellence.store.keys import REGISTRY
from devopsellence.store.size import MAX_RECORD_BYTES

BOTH = Node(name="n1", labels=["web", "worker"])
WEB = Node(name="n2", labels=["web"])
WORKER = Node(name="n3", labels=["worker"])
TENTH = MAX_RECORD_BYTES // 10


def _service(name: str, *, env: int = 0, secrets: int = 0, kind: Service.Kind.ValueType = Service.WEB) -> Service:
    """Return a service with ``env`` tenths of the limit as variables, and references to ``secrets`` secrets."""
    return Service(
        name=name,
        kind=kind,
        image=Image(app=True),
        env={f"E{number}": "x" * TENTH for number in range(env)},
        secret_refs=[SecretRef(name=f"S{number}", secret=f"S{number}", version=2) for number in range(secrets)],
    )


def _worker(env: int = 0, secrets: int = 0) -> Service:
    return _service("job", env=env, secrets=secrets, kind=Service.WORKER)


def _secrets(service: str, count: int, size: int = TENTH) -> dict[SecretId, Secret]:
    versions = [SecretVersion(version=1, age="old"), SecretVersion(version=2, age="x" * size, recipients=["r1"])]
    return {SecretId(service, f"S{number}"): Secret(versions=versions) for number in range(count)}


def _problem(
    draft: Release, *nodes: Node, stored: dict[SecretId, Secret] | None = None, growth: int = 0
) -> CliError | None:
    stored = stored or {}
    return too_large("production", draft, nodes, CurrentCopies(), stored, dict.fromkeys(stored, growth))


def test_secrets_that_are_too_much_together_are_refused_with_node_and_size() -> None:
    problem = _problem(Release(services=[_service("web", secrets=12)]), WEB, stored=_secrets("web", 12))
    assert problem is not None
    assert (problem.code, problem.exit_code) == ("assignment_too_large", 2)
    assert "production: node n2 could not get this release" in problem.message
    assert "KiB more than the " in problem.message
    assert "most of it is secrets (16" in problem.message
    assert problem.message.endswith("or split the project")


@pytest.mark.parametrize(
    ("services", "nodes", "code"),
    [
        ([_service("web", env=9)], [WEB], ""),
        ([_service("web", env=10)], [WEB], "release_too_large"),
        # Each secret goes only to the nodes of its service.
        ([_service("web", secrets=8), _worker(secrets=8)], [WEB, WORKER], ""),
        ([_service("web", secrets=8), _worker(secrets=8)], [WEB, WORKER, BOTH], "assignment_too_large"),
        ([_service("web", secrets=8), _worker(secrets=1)], [BOTH], ""),
        ([_service("web", secrets=8)], [], ""),
    ],
)
def test_every_node_is_checked_with_the_services_placed_on_it(
    services: list[Service], nodes: list[Node], code: str
) -> None:
    stored = {**_secrets("web", 8), **_secrets("job", 8)}
    problem = _problem(Release(services=services), *nodes, stored=stored)
    assert (problem.code if problem is not None else "") == code
    if problem is not None and nodes[-1] is BOTH:
        assert "node n1 could not" in problem.message


def test_growth_by_further_recipients_counts() -> None:
    draft, stored = Release(services=[_service("web", secrets=9)]), _secrets("web", 9)
    assert _problem(draft, WEB, stored=stored) is None
    problem = _problem(draft, WEB, stored=stored, growth=TENTH // 4)
    assert problem is not None
    assert problem.code == "assignment_too_large"


def test_release_task_needs_its_service_a_second_time() -> None:
    draft = Release(services=[_service("web", env=6)])
    assert _problem(draft, WEB) is None
    draft.release_task.CopyFrom(Task(name="release", service="web", command=["migrate"]))
    assert _problem(draft, WEB) is not None


def test_predicted_assignment_has_the_pinned_or_else_the_current_version() -> None:
    draft = Release(services=[_service("web", secrets=2)])
    draft.services[0].secret_refs[1].version = 9
    stored = _secrets("web", 2, size=3)
    stored[SecretId("other", "S0")] = stored[SecretId("web", "S0")]
    sealed = predicted(draft, {"web"}, stored).secrets
    assert [(one.service, one.name, one.version, one.age) for one in sealed] == [
        ("web", "S0", 2, "xxx"),
        ("web", "S1", 2, "xxx"),
    ]
    assert not predicted(draft, {"web"}, {}).secrets


def test_references_include_the_password_of_the_registry() -> None:
    draft = Release(services=[_service("web", secrets=1)])
    draft.registry.password_secret = "TOKEN"
    assert references(draft) == {SecretId("web", "S0"), SecretId(REGISTRY, "TOKEN")}


def test_growth_is_that_of_age_files_as_json() -> None:
    """For real, with so many recipients that the random stanza of a file makes no difference."""
    keys = [AgeIdentity.generate().recipient for _ in range(201)]

    def size(recipients: list[str]) -> int:
        return len(encode(SecretVersion(age=encrypt(b"value", recipients))))

    grown = size(keys) - size(keys[:1])
    (predicted_growth,) = growth_of(
        {SecretId("web", "S"): Secret(versions=[SecretVersion(recipients=keys[:1])])}, keys
    ).values()
    assert predicted_growth > 200 * RECIPIENT_BYTES
    assert 0.9 * predicted_growth < grown <= predicted_growth
