"""``secret``: stored versions, recipients, refusals, on a real etcd."""

from __future__ import annotations

import asyncio
import json
import stat

import pytest

from devopsellence.api.v1.stored_pb2 import Operator as OperatorRecord
from devopsellence.api.v1.stored_pb2 import Registry, Release
from devopsellence.cli.secrets import pin, recipients, vault
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY
from tests.integration.cli.secret_operator import CONFIG, Operator, opened, own, service
from tests.support.cli import REF

ENV = str(REF)
VALUE = b"postgres://shop:hunter2@db/shop"


def test_secret_is_encrypted_for_attached_nodes_and_operators(ann: Operator) -> None:
    n1, n2 = ann.node("n1"), ann.node("n2")
    ann.ok("node", "attach", "n1")
    result = ann.set("DATABASE_URL", VALUE + b"\n")
    assert "version 1, encrypted for n1 and 1 operator" in result.stdout
    assert opened(n1, ann) == opened(own(ann), ann) == VALUE
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert (secret.service, secret.name, secret.environment) == ("web", "DATABASE_URL", "production")
    assert list(secret.versions[0].recipients) == sorted([n1.recipient, own(ann).recipient])
    assert n2.recipient not in secret.versions[0].recipients
    assert "@" in secret.versions[0].set_by
    assert secret.versions[0].set_at.seconds
    assert [event["code"] for event in ann.json("events")["events"]][-1] == "secret_set"


def test_operator_identity_is_created_once_privately_and_registered(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    before = ann.path.read_bytes()
    assert stat.S_IMODE(ann.path.stat().st_mode) == 0o600
    assert [each.name for each in ann.path.parent.iterdir()] == ["operator.age"]
    ann.set("DATABASE_URL", b"other")
    assert ann.path.read_bytes() == before
    (entry,) = ann.json("secret", "list")["secrets"]
    (name,) = entry["operators"]
    record = ann.read(lambda etcd: etcd.keys.operator(name), OperatorRecord)
    assert record is not None
    assert (record.name, record.age_recipient) == (name, own(ann).recipient)


def test_unusable_identity_is_named(ann: Operator) -> None:
    ann.path.parent.mkdir()
    ann.path.write_text("AGE-SECRET-KEY-1NONSENSE")
    result = ann.piped(VALUE, "secret", "set", "DATABASE_URL", "--service", "web", "--stdin")
    assert result.exit_code == 1
    assert str(ann.path) in result.stderr
    assert "NONSENSE" not in result.output
    assert ann.stored("DATABASE_URL") is None


def test_setting_the_same_value_makes_no_version(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    assert "No change: version 1" in ann.set("DATABASE_URL", VALUE).stdout
    ann.set("DATABASE_URL", b"other")
    ann.set("DATABASE_URL", VALUE)
    assert ann.versions("DATABASE_URL") == [1, 2, 3]


def test_setting_the_same_value_grants_access_to_new_nodes(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    n1 = ann.node("n1")
    uid = ann.uid("n1")
    # Attached while its agent was away: nothing could be sealed for it.
    ann.beat("n1", "another machine", n1.recipient)
    ann.ok("node", "attach", "n1")
    ann.beat("n1", uid, n1.recipient)
    assert "No change" in ann.set("DATABASE_URL", VALUE).stdout
    assert opened(n1, ann) == VALUE
    assert ann.versions("DATABASE_URL") == [1]


def test_ten_versions_are_kept(ann: Operator) -> None:
    for number in range(12):
        ann.set("DATABASE_URL", str(number).encode())
    assert ann.versions("DATABASE_URL") == list(range(3, 13))


def test_concurrent_sets_make_a_version_each(ann: Operator) -> None:
    ann.set("DATABASE_URL", b"first")
    me = OperatorIdentity("ann", own(ann), str(ann.path))
    values = [b"one", b"two", b"three", b"four"]

    async def work(etcd: Etcd) -> None:
        found = await recipients.of_nodes(etcd, [])
        secret = SecretId("web", "DATABASE_URL")
        await asyncio.gather(*(vault.store(etcd, REF, secret, value, me=me, recipients=found) for value in values))

    ann.etcd(work)
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert [version.version for version in secret.versions] == [1, 2, 3, 4, 5]
    assert {me.identity.decrypt(version.age) for version in secret.versions} == {b"first", *values}


def test_deleted_secret_continues_above_referenced_versions(ann: Operator) -> None:
    for value in (b"one", b"two", b"three"):
        ann.set("DATABASE_URL", value)
    ann.release(1, service("web", DATABASE_URL=2))
    ann.release(2, service("web", DATABASE_URL=3))
    ann.release(3, service("web"))
    ann.ok("secret", "delete", "DATABASE_URL", "--service", "web", "--yes")
    assert ann.stored("DATABASE_URL") is None
    ann.set("DATABASE_URL", b"four")
    assert ann.versions("DATABASE_URL") == [4]


def test_delete_is_refused_while_the_newest_release_refers_to_it(ann: Operator) -> None:
    ann.set("TOKEN", b"value", service="worker")
    ann.set("REGISTRY_PASSWORD", b"value", service=REGISTRY)
    registry = Registry(repository="r/shop", username="shop", password_secret="REGISTRY_PASSWORD", password_version=1)
    ann.release(1, service("worker", TOKEN=1), registry=registry)
    for flags in (["TOKEN", "--service", "worker"], ["REGISTRY_PASSWORD", "--registry"]):
        error = ann.error("secret", "delete", *flags, "--yes")
        assert error["code"] == "secret_in_use"
        assert " ".join(flags) in error["findings"][0]["next_actions"][1]["command"]
        ann.ok("secret", "delete", *flags, "--yes", "--force")
        assert ann.error("secret", "delete", *flags, "--yes", "--force")["code"] == "secret_unknown"
    assert [event["code"] for event in ann.json("events")["events"]][-2:] == ["secret_deleted", "secret_deleted"]


def test_unreadable_secret_is_named_and_can_only_be_deleted(ann: Operator) -> None:
    key = f"{ann.settings.prefix}secrets/{ENV}/web/DATABASE_URL"
    ann.set("OTHER", VALUE)
    for garbage in (b"garbage", b"{}", b'{"versions": [{"version": 2}, {"version": 2}]}'):
        ann.write(lambda etcd: etcd.keys.secret(REF, "web", "DATABASE_URL"), garbage)
        result = ann.piped(VALUE, "secret", "set", "DATABASE_URL", "--service", "web", "--stdin")
        assert result.exit_code == 1
        assert key in result.stderr
        listed = ann.json("secret", "list")
        assert [problem["key"] for problem in listed["problems"]] == [key]
        assert [secret["name"] for secret in listed["secrets"]] == ["OTHER"]
        with pytest.raises(MalformedRecord, match=key):
            ann.etcd(lambda etcd: pin(etcd, REF, Release(services=[service("web", DATABASE_URL=0)]), nodes=[]))
        ann.ok("node", "register", "n1")
        assert key in ann.run("node", "attach", "n1").stderr
    ann.ok("secret", "delete", "DATABASE_URL", "--service", "web", "--yes")
    assert ann.json("secret", "list")["problems"] == []


@pytest.mark.parametrize(
    ("value", "arguments", "code"),
    [
        (b"", ["DATABASE_URL", "--service", "web", "--stdin"], "invalid_secret"),
        (b"\n", ["DATABASE_URL", "--service", "web", "--stdin"], "invalid_secret"),
        (b"a\0b", ["DATABASE_URL", "--service", "web", "--stdin"], "invalid_secret"),
        (b"\xff", ["DATABASE_URL", "--service", "web", "--stdin"], "invalid_secret"),
        (b"x" * 65537, ["DATABASE_URL", "--service", "web", "--stdin"], "invalid_secret"),
        (VALUE, ["DATABASE_URL", "--service", "web"], "value_missing"),
        (VALUE, ["DATABASE_URL", "--service", "web", "--stdin", "--value", "x"], "usage"),
        (VALUE, ["DATABASE_URL", "--stdin"], "usage"),
        (VALUE, ["DATABASE_URL", "--service", "web", "--registry", "--stdin"], "usage"),
        (VALUE, ["DATABASE_URL", "hunter2", "--service", "web", "--stdin"], "usage"),
        (VALUE, ["DATABASE_URL=hunter2", "--service", "web", "--stdin"], "usage"),
        (VALUE, ["DATABASE/URL", "--service", "web", "--stdin"], "invalid_name"),
        (VALUE, ["DATABASE_URL", "--service", "a/b", "--stdin"], "invalid_name"),
        (VALUE, ["DATABASE_URL", "--service", "wbe", "--stdin"], "service_unknown"),
    ],
)
def test_invalid_arguments_exit_with_2(ann: Operator, value: bytes, arguments: list[str], code: str) -> None:
    result = ann.piped(value, "secret", "set", *arguments, "-o", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == code
    assert "hunter2" not in result.output
    assert b"secrets/" not in ann.dump()


def test_empty_value_needs_flag_and_value_argument_warns(ann: Operator) -> None:
    ann.ok("secret", "set", "DATABASE_URL", "--service", "web", "--value", "", "--allow-empty")
    assert opened(own(ann), ann) == b""
    result = ann.run("secret", "set", "DATABASE_URL", "--service", "web", "--value", "x\n")
    assert "--stdin" in result.stderr
    assert opened(own(ann), ann) == b"x\n"


def test_unreferenced_secret_is_set_with_a_warning(ann: Operator) -> None:
    assert "secret_refs" in ann.set("TYPO", VALUE).stderr
    assert "secret_refs" not in ann.set("DATABASE_URL", VALUE).stderr
    assert "no password_secret of a registry is TYPO" in ann.set("TYPO", VALUE, service=REGISTRY).stderr
    assert "no password_secret" not in ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY).stderr


def test_any_service_gets_a_secret_without_configuration(ann: Operator) -> None:
    (ann.folder / "devopsellence.yml").unlink()
    ann.set("ANY", VALUE, "--env", ENV, service="whatever")
    # The configuration of another project says nothing about this one.
    (ann.folder / "devopsellence.yml").write_text(CONFIG.replace("project: Shop", "project: Other"))
    ann.set("ANY", VALUE, "--env", ENV, service="whatever")


def test_secret_list_shows_recipients_and_releases(ann: Operator) -> None:
    assert ann.ok("secret", "list").strip() == f"{ENV} has no secrets."
    ann.node("n1")
    ann.ok("node", "register", "n2")
    for name in ("n1", "n2"):
        ann.ok("node", "attach", name)
    ann.set("DATABASE_URL", b"one")
    assert "the public key of n2 is not known yet" in ann.set("DATABASE_URL", b"two").stderr
    ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY)
    ann.release(1, service("web", DATABASE_URL=1))
    document = ann.json("secret", "list")
    assert [(secret["service"], secret["name"], secret["version"]) for secret in document["secrets"]] == [
        ("_registry", "REGISTRY_PASSWORD", 1),
        ("web", "DATABASE_URL", 2),
    ]
    web = document["secrets"][1]
    assert (web["nodes"], web["nodes_without_access"]) == (["n1"], ["n2"])
    assert (web["release"], web["release_versions"]) == (1, [1])
    assert document["secrets"][0]["release"] is None
    text = ann.ok("secret", "list")
    assert "(registry)" in text
    assert "n1; not n2" in text
    assert "1 (version 1)" in text
