"""``secret``: what it stores, for whom, and what it refuses; against a real etcd."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node, Registry
from devopsellence.api.v1.stored_pb2 import Operator as OperatorRecord
from devopsellence.cli.secrets import members, pin, readers, vault
from devopsellence.cli.secrets.identity import Me
from devopsellence.cli.secrets.records import SecretId
from devopsellence.sealed import Identity, SealError
from devopsellence.store import access
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY
from devopsellence.store.records import encode
from tests.integration.cli.harness import REF, Cli
from tests.integration.cli.secretly import CONFIG, Operator, service
from tests.support.etcd import Authority, EtcdServer
from tests.support.need import need_etcd

ENV = str(REF)
VALUE = b"postgres://shop:hunter2@db/shop"


@pytest.fixture
def ann(cli: Cli, tmp_path: Path) -> Operator:
    """An operator in a folder with a configuration."""
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    return Operator(cli.settings, cli.folder, tmp_path / "ann" / "operator.age")


@pytest.fixture
def bob(ann: Operator, tmp_path: Path) -> Operator:
    """Another one, on a machine of his own."""
    return Operator(ann.settings, ann.folder, tmp_path / "bob" / "operator.age")


def opened(key: Identity, operator: Operator, name: str = "DATABASE_URL", service: str = "web") -> bytes:
    secret = operator.stored(name, service)
    assert secret is not None
    return key.open(secret.versions[-1].age)


def own(operator: Operator) -> Identity:
    return Identity(operator.path.read_text())


def test_a_value_is_sealed_for_attached_nodes_and_operators(ann: Operator) -> None:
    n1, n2 = ann.node("n1"), ann.node("n2")
    ann.ok("node", "attach", "n1")
    result = ann.set("DATABASE_URL", VALUE + b"\n")
    assert "version 1, sealed for n1 and 1 operator" in result.stdout
    assert opened(n1, ann) == opened(own(ann), ann) == VALUE
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert (secret.service, secret.name, secret.environment) == ("web", "DATABASE_URL", "production")
    assert list(secret.versions[0].recipients) == sorted([n1.recipient, own(ann).recipient])
    assert n2.recipient not in secret.versions[0].recipients
    assert "@" in secret.versions[0].set_by
    assert secret.versions[0].set_at.seconds
    assert [each["code"] for each in ann.json("events")["events"]][-1] == "secret_set"


def test_the_identity_is_made_once_for_its_owner_alone_and_registered(ann: Operator) -> None:
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


def test_an_identity_that_cannot_be_used_is_named(ann: Operator) -> None:
    ann.path.parent.mkdir()
    ann.path.write_text("AGE-SECRET-KEY-1NONSENSE")
    result = ann.piped(VALUE, "secret", "set", "DATABASE_URL", "--service", "web", "--stdin")
    assert result.exit_code == 1
    assert str(ann.path) in result.stderr
    assert "NONSENSE" not in result.output
    assert ann.stored("DATABASE_URL") is None


def test_a_value_that_is_there_already_makes_no_new_version(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    assert "is unchanged: version 1" in ann.set("DATABASE_URL", VALUE).stdout
    ann.set("DATABASE_URL", b"other")
    ann.set("DATABASE_URL", VALUE)
    assert ann.versions("DATABASE_URL") == [1, 2, 3]


def test_setting_what_is_there_lets_in_who_has_come_since(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    n1 = ann.node("n1")
    uid = ann.uid("n1")
    # Attached while its agent was away: nothing could be sealed for it.
    ann.beat("n1", "another machine", n1.recipient)
    ann.ok("node", "attach", "n1")
    ann.beat("n1", uid, n1.recipient)
    assert "unchanged" in ann.set("DATABASE_URL", VALUE).stdout
    assert opened(n1, ann) == VALUE
    assert ann.versions("DATABASE_URL") == [1]


def test_ten_versions_are_kept(ann: Operator) -> None:
    for number in range(12):
        ann.set("DATABASE_URL", str(number).encode())
    assert ann.versions("DATABASE_URL") == list(range(3, 13))


def test_several_at_once_make_a_version_each(ann: Operator) -> None:
    ann.set("DATABASE_URL", b"first")
    me = Me("ann", own(ann), ann.path)
    values = [b"one", b"two", b"three", b"four"]

    async def work(etcd: Etcd) -> None:
        found = await readers.of_nodes(etcd, [])
        secret = SecretId("web", "DATABASE_URL")
        await asyncio.gather(*(vault.store(etcd, REF, secret, value, me=me, readers=found) for value in values))

    ann.etcd(work)
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert [each.version for each in secret.versions] == [1, 2, 3, 4, 5]
    assert {me.identity.open(each.age) for each in secret.versions} == {b"first", *values}


def test_a_deleted_secret_goes_on_above_what_releases_refer_to(ann: Operator) -> None:
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
    assert [each["code"] for each in ann.json("events")["events"]][-2:] == ["secret_deleted", "secret_deleted"]


def test_an_unreadable_record_is_named_and_only_deleted(ann: Operator) -> None:
    key = f"{ann.settings.prefix}secrets/{ENV}/web/DATABASE_URL"
    ann.set("OTHER", VALUE)
    for garbage in (b"garbage", b"{}", b'{"versions": [{"version": 2}, {"version": 2}]}'):
        ann.write(lambda etcd: etcd.keys.secret(REF, "web", "DATABASE_URL"), garbage)
        result = ann.piped(VALUE, "secret", "set", "DATABASE_URL", "--service", "web", "--stdin")
        assert result.exit_code == 1
        assert key in result.stderr
        listed = ann.json("secret", "list")
        assert [each["key"] for each in listed["problems"]] == [key]
        assert [each["name"] for each in listed["secrets"]] == ["OTHER"]
        with pytest.raises(MalformedRecord, match=key):
            ann.etcd(lambda etcd: pin(etcd, REF, [service("web", DATABASE_URL=0)], None, nodes=[]))
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
def test_what_cannot_be_right_is_refused_with_exit_code_2(
    ann: Operator, value: bytes, arguments: list[str], code: str
) -> None:
    result = ann.piped(value, "secret", "set", *arguments, "-o", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == code
    assert "hunter2" not in result.output
    assert b"secrets/" not in ann.dump()


def test_an_empty_value_and_one_on_the_command_line_need_a_word(ann: Operator) -> None:
    ann.ok("secret", "set", "DATABASE_URL", "--service", "web", "--value", "", "--allow-empty")
    assert opened(own(ann), ann) == b""
    result = ann.run("secret", "set", "DATABASE_URL", "--service", "web", "--value", "x\n")
    assert "prefer --stdin" in result.stderr
    assert opened(own(ann), ann) == b"x\n"


def test_what_nothing_refers_to_is_set_with_a_warning(ann: Operator) -> None:
    assert "services.web.secret_refs does not name TYPO" in ann.set("TYPO", VALUE).stderr
    assert "secret_refs" not in ann.set("DATABASE_URL", VALUE).stderr
    assert "does not name TYPO" in ann.set("TYPO", VALUE, service=REGISTRY).stderr
    assert "does not name" not in ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY).stderr


def test_without_a_configuration_any_service_may_get_one(ann: Operator) -> None:
    (ann.folder / "devopsellence.yml").unlink()
    ann.set("ANY", VALUE, "--env", ENV, service="whatever")
    # The configuration of another project says nothing about this one.
    (ann.folder / "devopsellence.yml").write_text(CONFIG.replace("project: Shop", "project: Other"))
    ann.set("ANY", VALUE, "--env", ENV, service="whatever")


def test_list_says_who_can_open_what_and_which_release_uses_it(ann: Operator) -> None:
    assert ann.ok("secret", "list").strip() == f"{ENV} has no secrets."
    ann.node("n1")
    ann.ok("node", "register", "n2")
    for name in ("n1", "n2"):
        ann.ok("node", "attach", name)
    ann.set("DATABASE_URL", b"one")
    assert "no key is known of n2" in ann.set("DATABASE_URL", b"two").stderr
    ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY)
    ann.release(1, service("web", DATABASE_URL=1))
    document = ann.json("secret", "list")
    assert [(each["service"], each["name"], each["version"]) for each in document["secrets"]] == [
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


def test_attach_lets_a_node_into_what_there_is(ann: Operator) -> None:
    for value in (b"one", b"two"):
        ann.set("DATABASE_URL", value)
    ann.release(1, service("web", DATABASE_URL=1))
    n1 = ann.node("n1")
    assert ann.json("node", "attach", "n1")["secrets_sealed"] == [{"service": "web", "name": "DATABASE_URL"}]
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert [n1.open(each.age) for each in secret.versions] == [b"one", b"two"]
    assert ann.versions("DATABASE_URL") == [1, 2]
    node = ann.read(lambda etcd: etcd.keys.node("n1"), Node)
    assert node is not None
    assert node.age_recipient == n1.recipient
    assert ann.json("node", "attach", "n1")["secrets_sealed"] == []


def test_attach_gives_an_agent_a_moment_to_say_its_key(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    ann.ok("node", "register", "n1")
    uid, key = ann.uid("n1"), Identity.generate()
    ann.beat("n1", uid, "")

    async def work(etcd: Etcd) -> members.Resealed:
        waiting = asyncio.create_task(members.admit(etcd, REF, "n1"))
        beat = Heartbeat(node="n1", uid=uid, age_recipient=key.recipient)
        await etcd.put(etcd.keys.heartbeat("n1"), encode(beat))
        return await waiting

    with ann.being():
        done = ann.etcd(work)
    assert (len(done.secrets), done.keyless) == (1, ())
    assert opened(key, ann) == VALUE


def test_a_node_without_a_key_is_attached_with_a_warning(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    ann.ok("node", "register", "n1")
    result = ann.run("node", "attach", "n1")
    assert result.exit_code == 0
    assert "node n1 has not said its key yet" in result.stderr


def test_a_key_of_another_registration_or_of_no_form_is_not_believed(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    for uid, recipient in (("other", n1.recipient), (ann.uid("n1"), "age1nonsense")):
        ann.beat("n1", uid, recipient)
        assert "no key is known of n1" in ann.set("DATABASE_URL", uid.encode()).stderr


def test_detach_names_what_the_node_has_seen_and_later_values_are_not_for_it(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    ann.set("TOKEN", VALUE, service="worker")
    text = ann.ok("node", "detach", "n1")
    assert "DATABASE_URL of web, TOKEN of worker" in text
    assert "set them anew" in text
    ann.set("DATABASE_URL", b"new")
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.recipient not in secret.versions[-1].recipients
    with pytest.raises(SealError):
        n1.open(secret.versions[-1].age)


def test_what_another_operator_sealed_takes_that_operator(ann: Operator, bob: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    (name,) = ann.json("secret", "list")["secrets"][0]["operators"]
    ann.node("n1")
    before = ann.stored("DATABASE_URL")
    for command in (["node", "attach", "n1"], ["secret", "reencrypt"]):
        error = bob.error(*command)
        assert error["code"] == "secret_sealed"
        assert f"{name} can open it" in error["message"]
    assert ann.stored("DATABASE_URL") == before
    # Now that bob is known, ann lets bob in.
    assert ann.json("secret", "reencrypt")["secrets"] == [{"service": "web", "name": "DATABASE_URL"}]
    assert ann.ok("secret", "reencrypt").startswith("All secrets of")
    assert opened(own(bob), bob) == VALUE
    bob.ok("node", "attach", "n1")
    # And whoever cannot open the current value can still set another.
    ann.path.unlink()
    ann.set("DATABASE_URL", VALUE)
    assert ann.versions("DATABASE_URL") == [1, 2]


def test_nothing_is_sealed_anew_when_one_secret_cannot_be_opened(ann: Operator, bob: Operator) -> None:
    ann.set("TOKEN", VALUE, service="worker")
    bob.set("DATABASE_URL", VALUE)
    ann.node("n1")
    before = ann.stored("DATABASE_URL"), ann.stored("TOKEN", "worker")
    assert bob.error("node", "attach", "n1")["code"] == "secret_sealed"
    assert (ann.stored("DATABASE_URL"), ann.stored("TOKEN", "worker")) == before
    ann.ok("node", "attach", "n1")


def test_the_version_that_runs_is_kept_however_often_it_is_set(ann: Operator) -> None:
    ann.set("DATABASE_URL", b"one")
    ann.release(1, service("web", DATABASE_URL=1))
    for number in range(12):
        ann.set("DATABASE_URL", str(number).encode())
    assert ann.versions("DATABASE_URL") == [1, *range(5, 14)]
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.open(secret.versions[0].age) == b"one"


def test_an_unreadable_environment_or_release_is_named_and_costs_nobody_access(ann: Operator) -> None:
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
    assert [each["name"] for each in ann.json("secret", "list")["secrets"]] == ["DATABASE_URL"]
    for command in (["node", "attach", "n2"], ["node", "detach", "n1"], ["secret", "reencrypt"]):
        assert ann.error(*command)["code"] == "record_unreadable"
    result = ann.piped(b"new", "secret", "set", "DATABASE_URL", "--service", "web", "--stdin")
    assert result.exit_code == 1
    assert ann.stored("DATABASE_URL") == before
    assert opened(n1, ann) == VALUE


def test_a_node_whose_record_cannot_be_read_keeps_its_access(ann: Operator) -> None:
    n1 = ann.node("n1")
    ann.node("n2")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    ann.write(lambda etcd: etcd.keys.node("n1"), b"garbage")
    ann.ok("node", "attach", "n2")
    assert opened(n1, ann) == VALUE


def test_a_node_that_never_had_a_key_has_seen_nothing(ann: Operator) -> None:
    ann.ok("node", "register", "n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    assert ann.json("node", "detach", "n1")["secrets_seen"] == []


def test_a_person_whose_certificate_is_not_root_s_can_do_all_this(cli: Cli, tmp_path: Path) -> None:
    need_etcd()
    authority = Authority(tmp_path / "pki")
    with EtcdServer(tmp_path / "etcd", authority=authority) as server:
        root = Operator(server.settings(user=access.USER_OPERATOR), cli.folder, tmp_path / "root.age")
        root.etcd(access.enable)
        root.etcd(lambda etcd: access.grant_operator(etcd, "ann"))
        n1 = root.node("n1")
        ann = Operator(server.settings(user="operator:ann"), cli.folder, tmp_path / "ann.age")
        ann.set("DATABASE_URL", VALUE, "--env", ENV)
        ann.ok("node", "attach", "n1", "--env", ENV)
        assert opened(n1, ann) == VALUE
        assert [each["nodes"] for each in ann.json("secret", "list")["secrets"]] == [["n1"]]
        ann.ok("secret", "delete", "DATABASE_URL", "--service", "web", "--yes")
        # The node itself reads no secret, sealed as it is.
        node = Operator(server.settings(user="node:n1"), cli.folder, tmp_path / "n1.age")
        assert node.error("secret", "list", "--env", ENV)["code"] == "etcd_permission_denied"
