"""Ciphertexts in assignments, case by case."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.secrets import SecretReference, missing_secrets, references_of
from devopsellence.store.keys import REGISTRY
from tests.unit.controller.builders import KEYS, REF, Store, app, migration, release, service, writes

REGISTERED = pb.Registry(repository="registry.example/shop", username="ann", password_secret="PASS", password_version=1)
REDIS = service("redis", "worker")


def sealed(store: Store, name: str) -> list[str]:
    """Return the sorted secrets of the node, as "service/ciphertext"."""
    assignment = store.assignment(name)
    assert assignment is not None
    given = [(secret.service, secret.name, secret.version) for secret in assignment.secrets]
    assert given == sorted(given)
    return [f"{secret.service}/{secret.age}" for secret in assignment.secrets]


def deployed_store() -> Store:
    """n1 (web) and n2 (worker) at release 1, whose services refer to a secret each."""
    store = Store()
    store.add_node("n1", "web")
    store.add_node("n2", "worker")
    store.set_environment("n1", "n2")
    store.store_secret("web", "A", 1, 2)
    store.store_secret("web", "B", 1)
    store.store_secret("redis", "C", 3)
    store.deploy(1, app(1, B=1, A=2), service("redis", "worker", C=3))
    store.converge()
    return store


def settle(store: Store) -> None:
    for name in store.attached():
        store.report(name)
    store.converge()


def test_node_gets_secrets_of_its_services_in_pinned_versions() -> None:
    store = deployed_store()
    assert sealed(store, "n1") == ["web/A/2 for n1", "web/B/1 for n1"]
    assert sealed(store, "n2") == ["redis/C/3 for n1"]
    assert not store.plan().actions


def test_secret_that_was_encrypted_again_is_written_to_its_users_alone() -> None:
    store = deployed_store()
    store.store_secret("web", "B", 1, 2, recipients="n1,n2")
    [action] = writes(store.step())
    assert (action.node, action.reason) == ("n1", "secrets were encrypted again: B of web")
    assert sealed(store, "n1") == ["web/A/2 for n1", "web/B/1 for n1,n2"]
    assignment = store.assignment("n1")
    assert assignment is not None
    assert assignment.generation == 2


def test_new_version_that_no_release_pins_yet_changes_nothing() -> None:
    store = deployed_store()
    store.store_secret("web", "B", 1, 2)
    assert not store.plan().actions


def test_secret_that_is_missing_is_left_out_and_named_with_command() -> None:
    store = deployed_store()
    settle(store)
    store.delete(KEYS.secret(REF, "web", "B"))
    store.deploy(2, app(2, B=1, A=2), service("redis", "worker", C=3))
    store.converge()
    assert sealed(store, "n1") == ["web/A/2 for n1"]
    assert store.rollout().reason.startswith(
        'secret B of service "web" does not exist; '
        "run devopsellence secret set B --service web --stdin, then devopsellence deploy; "
    )
    store.store_secret("web", "B", 1)
    store.converge()
    assert sealed(store, "n1") == ["web/A/2 for n1", "web/B/1 for n1"]
    settle(store)
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")


def test_unreadable_secret_is_kept_and_reported_with_its_key() -> None:
    spoiled = (
        pb.Secret(),
        pb.Secret(organization="acme", project="shop", environment="production", service="web", name="B"),
        None,
    )
    for message in spoiled:
        store = deployed_store()
        settle(store)
        key = KEYS.secret(REF, "web", "B")
        if message is None:
            store.garbage(key)
        else:
            store.put(key, message)
        assert writes(store.step()) == []
        assert store.phase() == "SETTLED"
        assert key in store.rollout().reason
        store.deploy(2, app(2, B=1, A=2), service("redis", "worker", C=3))
        store.converge()
        assert sealed(store, "n1") == ["web/A/2 for n1", "web/B/1 for n1"]


def test_aged_out_version_is_kept_by_nodes_that_have_it() -> None:
    store = deployed_store()
    store.store_secret("web", "B", 2, 3)
    assert not writes(store.step())
    store.add_node("n3", "web")
    store.set_environment("n1", "n2", "n3", latest=1)
    store.converge()
    assert sealed(store, "n1") == ["web/A/2 for n1", "web/B/1 for n1"]
    assert sealed(store, "n3") == ["web/A/2 for n1"]
    assert 'secret B of service "web" has no version 1; run devopsellence deploy' in store.rollout().reason


def test_registry_and_its_password_are_given_to_those_who_pull_app() -> None:
    store = deployed_store()
    store.store_secret(REGISTRY, "PASS", 1)
    store.deploy(2, app(2), REDIS, registry=REGISTERED)
    store.converge()
    first, second = store.assignment("n1"), store.assignment("n2")
    assert first is not None
    assert second is not None
    assert first.registry == REGISTERED
    assert sealed(store, "n1") == [f"{REGISTRY}/PASS/1 for n1"]
    assert not second.HasField("registry")
    assert sealed(store, "n2") == []
    store.deploy(3, app(2), REDIS)
    store.converge()
    first = store.assignment("n1")
    assert first is not None
    assert not first.HasField("registry")


def test_logins_are_given_to_nodes_that_pull_from_their_hosts() -> None:
    store = deployed_store()
    hub = pb.RegistryLogin(host="docker.io", username="ann", password_secret="HUB", password_version=1)
    other = pb.RegistryLogin(host="r.example.com", username="ann", password_secret="OTHER", password_version=1)
    for name in ("HUB", "OTHER"):
        store.store_secret(REGISTRY, name, 1)
    redis = service("redis", "worker")
    redis.image.reference, redis.image.pinned = "redis:7", "redis@sha256:" + "a" * 64
    store.deploy(2, app(2), redis, registry_logins=[hub, other])
    store.converge()
    assignments = {name: store.assignment(name) for name in ("n1", "n2")}
    hosts = {name: [login.host for login in found.registry_logins] for name, found in assignments.items() if found}
    running = {name: [one.name for one in found.services] for name, found in assignments.items() if found}
    assert hosts == {name: ["docker.io"] if "redis" in names else [] for name, names in running.items()}
    assert {name: sealed(store, name) for name in hosts} == {
        name: [f"{REGISTRY}/HUB/1 for n1"] if hosts[name] else [] for name in hosts
    }
    assert any(hosts.values())
    assert not all(hosts.values())


def test_registry_without_its_password_says_how_to_set_it() -> None:
    store = deployed_store()
    store.deploy(2, app(2), REDIS, registry=REGISTERED)
    store.converge()
    assert "secret PASS of the registry does not exist; run devopsellence secret set PASS --registry --stdin" in (
        store.rollout().reason
    )


def test_tasks_node_gets_what_task_and_what_kept_services_need() -> None:
    store = deployed_store()
    settle(store)
    store.store_secret("web", "A", 2, 3)
    store.store_secret(REGISTRY, "PASS", 1)
    store.deploy(2, app(2, A=3), REDIS, task=migration(), registry=REGISTERED)
    store.converge()
    assert sealed(store, "n1") == [f"{REGISTRY}/PASS/1 for n1", "web/A/2 for n1", "web/A/3 for n1", "web/B/1 for n1"]
    assignment = store.assignment("n1")
    assert assignment is not None
    assert assignment.registry == REGISTERED
    assert sealed(store, "n2") == ["redis/C/3 for n1"], "it keeps what it has"


def test_held_node_gets_secrets_encrypted_again() -> None:
    store = deployed_store()
    settle(store)
    store.add_node("n1", "web", cordoned=True)
    store.store_secret("web", "B", 1, recipients="n1 anew")
    [action] = writes(store.step())
    assert action.reason == "secrets were encrypted again: B of web"
    assert sealed(store, "n1") == ["web/A/2 for n1", "web/B/1 for n1 anew"]
    store.delete(KEYS.secret(REF, "web", "B"))
    assert writes(store.step()) == []


def test_no_ciphertext_and_no_value_is_told() -> None:
    store = deployed_store()
    store.store_secret("web", "B", 1, recipients="n1,n2")
    store.converge()
    settle(store)
    assert not [event.message for event in store.events if " for n1" in event.message]
    assert " for n1" not in str(store.rollout())


def test_references_cover_services_task_and_registry() -> None:
    assignment = pb.Assignment(
        services=[app(1, A=1), app(1, "api", A=1)], task_service=app(2, A=2), registry=REGISTERED
    )
    assert references_of(assignment) == {
        SecretReference("web", "A", 1),
        SecretReference("api", "A", 1),
        SecretReference("web", "A", 2),
        SecretReference(REGISTRY, "PASS", 1),
    }


def test_missing_secrets_exclude_unreadable_records() -> None:
    store = deployed_store()
    store.garbage(KEYS.secret(REF, "redis", "C"))
    needed = release(2, app(2, A=9, B=1, D=1), service("redis", "worker", C=3), registry=REGISTERED)
    assert missing_secrets(needed, store.snapshot().secrets) == [(REGISTRY, "PASS"), ("web", "A"), ("web", "D")]
