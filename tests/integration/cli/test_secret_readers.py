"""Access to secrets as nodes and operators come and go, on a real etcd."""

from __future__ import annotations

import asyncio

import pytest

from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.cli.secrets import access
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from tests.integration.cli.secret_operator import Operator, opened, own, service
from tests.support.cli import REF

ENV = str(REF)
VALUE = b"postgres://shop:hunter2@db/shop"


def test_attach_grants_existing_secrets_to_node(ann: Operator) -> None:
    for value in (b"one", b"two"):
        ann.set("DATABASE_URL", value)
    ann.release(1, service("web", DATABASE_URL=1))
    n1 = ann.node("n1")
    assert ann.json("node", "attach", "n1")["secrets_sealed"] == [{"service": "web", "name": "DATABASE_URL"}]
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert [n1.decrypt(version.age) for version in secret.versions] == [b"one", b"two"]
    assert ann.versions("DATABASE_URL") == [1, 2]
    node = ann.read(lambda etcd: etcd.keys.node("n1"), Node)
    assert node is not None
    assert node.age_recipient == n1.recipient
    assert ann.json("node", "attach", "n1")["secrets_sealed"] == []


def test_attach_waits_for_age_key_of_agent(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    ann.ok("node", "register", "n1")
    uid, key = ann.uid("n1"), AgeIdentity.generate()
    ann.beat("n1", uid, "")

    async def work(etcd: Etcd) -> access.ReencryptResult:
        waiting = asyncio.create_task(access.grant_to_nodes(etcd, REF, ["n1"]))
        beat = Heartbeat(node="n1", uid=uid, age_recipient=key.recipient)
        await etcd.put(etcd.keys.heartbeat("n1"), encode(beat))
        return await waiting

    with ann.being():
        done = ann.etcd(work)
    assert (len(done.secrets), done.keyless) == (1, ())
    assert opened(key, ann) == VALUE


def test_node_without_age_key_is_attached_with_warning(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    ann.ok("node", "register", "n1")
    result = ann.run("node", "attach", "n1")
    assert result.exit_code == 0
    assert "node n1 cannot decrypt the secrets yet" in result.stderr


def test_foreign_or_malformed_age_key_is_ignored(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    for uid, recipient in (("other", n1.recipient), (ann.uid("n1"), "age1nonsense")):
        ann.beat("n1", uid, recipient)
        assert "the public key of n1 is not known yet" in ann.set("DATABASE_URL", uid.encode()).stderr


def test_detach_names_secrets_seen_and_ends_access(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    ann.set("TOKEN", VALUE, service="worker")
    text = ann.ok("node", "detach", "n1", "-y")
    assert "DATABASE_URL of web, TOKEN of worker" in text
    assert "set new values" in text
    ann.set("DATABASE_URL", b"new")
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.recipient not in secret.versions[-1].recipients
    with pytest.raises(EncryptionError):
        n1.decrypt(secret.versions[-1].age)


def test_secret_of_another_operator_needs_that_operator(ann: Operator, bob: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    (name,) = ann.json("secret", "list")["secrets"][0]["operators"]
    ann.node("n1")
    before = ann.stored("DATABASE_URL")
    for command in (["node", "attach", "n1"], ["secret", "reencrypt"]):
        error = bob.error(*command)
        assert error["code"] == "secret_sealed"
        assert f"; {name} can" in error["message"]
    assert ann.stored("DATABASE_URL") == before
    # Now that bob is known, ann lets bob in.
    assert ann.json("secret", "reencrypt")["secrets"] == [{"service": "web", "name": "DATABASE_URL"}]
    assert ann.ok("secret", "reencrypt").startswith("No change")
    assert opened(own(bob), bob) == VALUE
    bob.ok("node", "attach", "n1")
    # And whoever cannot open the current value can still set another.
    ann.path.unlink()
    ann.set("DATABASE_URL", VALUE)
    assert ann.versions("DATABASE_URL") == [1, 2]


def test_reencrypt_changes_nothing_when_one_secret_is_undecryptable(ann: Operator, bob: Operator) -> None:
    ann.set("TOKEN", VALUE, service="worker")
    bob.set("DATABASE_URL", VALUE)
    ann.node("n1")
    before = ann.stored("DATABASE_URL"), ann.stored("TOKEN", "worker")
    assert bob.error("node", "attach", "n1")["code"] == "secret_sealed"
    assert (ann.stored("DATABASE_URL"), ann.stored("TOKEN", "worker")) == before
    ann.ok("node", "attach", "n1")


def test_running_secret_version_is_kept(ann: Operator) -> None:
    ann.set("DATABASE_URL", b"one")
    ann.release(1, service("web", DATABASE_URL=1))
    for number in range(12):
        ann.set("DATABASE_URL", str(number).encode())
    assert ann.versions("DATABASE_URL") == [1, *range(5, 14)]
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.decrypt(secret.versions[0].age) == b"one"


def test_unreadable_environment_or_release_revokes_no_access(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.node("n2")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    ann.release(1, service("web", DATABASE_URL=1))
    before = ann.stored("DATABASE_URL")
    ann.write(lambda etcd: etcd.keys.release(REF, 1), b"garbage")
    (problem,) = ann.json("secret", "list")["problems"]
    assert problem["key"] == f"{ann.settings.prefix}releases/{ENV}/0000000001"
    assert ann.error("secret", "delete", "DATABASE_URL", "--service", "web", "--yes")["code"] == "record_unreadable"
    assert ann.error("node", "attach", "n2")["code"] == "record_unreadable"
    ann.write(lambda etcd: etcd.keys.environment(REF), b"garbage")
    assert [secret["name"] for secret in ann.json("secret", "list")["secrets"]] == ["DATABASE_URL"]
    for command in (["node", "attach", "n2"], ["node", "detach", "n1", "-y"], ["secret", "reencrypt"]):
        assert ann.error(*command)["code"] == "record_unreadable"
    result = ann.piped(b"new", "secret", "set", "DATABASE_URL", "--service", "web", "--stdin")
    assert result.exit_code == 1
    assert ann.stored("DATABASE_URL") == before
    assert opened(n1, ann) == VALUE


def test_unreadable_node_keeps_access(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.node("n2")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    ann.write(lambda etcd: etcd.keys.node("n1"), b"garbage")
    ann.ok("node", "attach", "n2")
    assert opened(n1, ann) == VALUE


def test_node_without_age_key_has_seen_no_secret(ann: Operator) -> None:
    ann.ok("node", "register", "n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    assert ann.json("node", "detach", "n1", "-y")["secrets_seen"] == []
