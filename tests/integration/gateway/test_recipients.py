"""New recipients of secrets, through a gateway: refused, confirmed by one, approved for all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from devopsellence.access.roles import Role
from devopsellence.age import AgeIdentity
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.cli.secret_operator import CONFIG, Operator, own
from tests.integration.cli.test_terminal import Terminal
from tests.support.cli import REF
from tests.support.gateway import RunningGateway

pytestmark = [pytest.mark.etcd, pytest.mark.usefixtures("quiet")]

SET = ("secret", "set", "TOKEN", "--service", "worker", "--value")


class Team:
    """Operators of a cluster: root, two deployers and an admin, each on a machine of its own."""

    def __init__(self, gateway: RunningGateway, folder: Path) -> None:
        self.gateway, self.folder = gateway, folder

    def member(self, name: str) -> Operator:
        settings = self.gateway.root() if name == "root" else self.gateway.operator(name)
        return self._of(settings, name)

    def _of(self, settings: Settings, name: str) -> Operator:
        cli = Operator(settings, self.folder, self.folder / name / "operator.age")
        cli.direct = self.gateway.direct.settings
        return cli


@pytest.fixture
async def team(gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    for name, role in (("ann", Role.DEPLOYER), ("bob", Role.DEPLOYER), ("amy", Role.ADMIN)):
        await gateway.grant(name, "*", roles=[role])
    environment = pb.Environment(organization=REF.organization, project=REF.project, environment=REF.environment)
    await gateway.direct.put(gateway.direct.keys.environment(REF), encode(environment))
    (tmp_path / "devopsellence.yml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return Team(gateway, tmp_path)


async def run(cli: Operator, *words: str) -> dict[str, Any]:
    return await asyncio.to_thread(cli.json, *words)


async def refused(cli: Operator, *words: str) -> str:
    error = await asyncio.to_thread(cli.error, *words)
    assert (error["code"], error["exit_code"]) == ("recipients_unconfirmed", 2)
    return str(error["message"])


async def recipients_of(etcd: Etcd) -> set[str]:
    key = etcd.keys.secret(REF, "worker", "TOKEN")
    item = await etcd.get(key)
    assert item is not None
    return set(decode(pb.Secret, key, item.value).versions[-1].recipients)


async def test_new_operator_is_confirmed_by_one_and_approved_for_all(team: Team) -> None:
    ann, bob, amy = (team.member(name) for name in ("ann", "bob", "amy"))
    await run(ann, *SET, "one")
    before = await recipients_of(team.gateway.direct)
    message = await refused(bob, *SET, "two")
    assert "new recipients of the secrets of acme/Shop/production, not approved by an admin: operator ann." in message
    assert await recipients_of(team.gateway.direct) == before
    await refused(ann, "secret", "reencrypt")
    # For bob alone, as he may not approve.
    done = await run(bob, "operator", "recipients", "approve", "-y")
    assert ([entry["operator"] for entry in done["approved"]], done["for_everybody"]) == (["ann"], False)
    await run(bob, *SET, "two")
    await refused(ann, *SET, "three")
    shown = (await run(amy, "operator", "recipients", "list"))["recipients"]
    assert [(entry["operator"], entry["reason"]) for entry in shown] == [("ann", None), ("bob", None)]
    assert {entry["added_by"].partition("@")[0] for entry in shown} == {"ann", "bob"}
    done = await run(amy, "operator", "recipients", "approve", shown[1]["name"], "-y")
    assert ([entry["operator"] for entry in done["approved"]], done["for_everybody"]) == (["bob"], True)
    await run(ann, *SET, "three")
    assert await recipients_of(team.gateway.direct) == {own(ann).recipient, own(bob).recipient}
    reasons = [entry["reason"] for entry in (await run(ann, "operator", "recipients", "list"))["recipients"]]
    assert reasons == ["yours", "approved by operator:amy"]
    # With the approver goes the approval.
    await run(team.member("root"), "operator", "remove", "amy", "-y")
    await refused(ann, *SET, "four")


async def test_new_operator_is_asked_about_on_a_terminal(team: Team) -> None:
    ann, bob = team.member("ann"), team.member("bob")
    await run(ann, *SET, "one")

    def answered(answer: bytes) -> tuple[int, bytes]:
        terminal = Terminal(bob, *SET, "two")
        terminal.read_until(b"Encrypt for them? [y/N]")
        terminal.type(answer)
        return terminal.end(), terminal.seen

    code, seen = await asyncio.to_thread(answered, b"n\r")
    assert code == 1
    assert b"(added by ann@" in seen
    assert own(bob).recipient not in await recipients_of(team.gateway.direct)
    code, seen = await asyncio.to_thread(answered, b"y\r")
    assert (code, b"is set: version 2" in seen) == (0, True), seen
    assert await recipients_of(team.gateway.direct) == {own(ann).recipient, own(bob).recipient}
    # Once confirmed, not asked about again.
    await run(bob, *SET, "three")


async def test_registered_node_needs_no_question_until_its_key_changes(team: Team) -> None:
    ann, amy, root = (team.member(name) for name in ("ann", "amy", "root"))
    first = await asyncio.to_thread(amy.node, "n1")
    await run(amy, "node", "attach", "n1")
    await run(root, *SET, "one")
    assert first.recipient in await recipients_of(team.gateway.direct)
    # Root's key is approved by root's own signature.
    await run(ann, *SET, "two")
    key = AgeIdentity.generate()
    await asyncio.to_thread(lambda: amy.beat("n1", amy.uid("n1"), key.recipient))
    assert "not approved by an admin: node n1;" in await refused(ann, *SET, "three")
    await run(root, "operator", "recipients", "approve", "n1", "--env", str(REF), "-y")
    await run(ann, *SET, "three")
    assert key.recipient in await recipients_of(team.gateway.direct)


async def test_recipient_written_to_etcd_itself_is_not_used(team: Team) -> None:
    ann, keys = team.member("ann"), team.gateway.direct.keys
    await run(ann, *SET, "one")
    thief = AgeIdentity.generate().recipient
    forged = pb.Operator(name="root.x-1", age_recipient=thief)
    forged.approval.CopyFrom(pb.RecipientApproval(certificates="junk", signature=b"junk"))
    await team.gateway.direct.put(keys.operator(forged.name), encode(forged))
    assert "operator root.x-1" in await refused(ann, *SET, "two")
    item = await team.gateway.direct.get(keys.operator(forged.name))
    assert item is not None
    # A name that has the approval of another key.
    root = team.member("root")
    await asyncio.to_thread(lambda: root.run(*SET, "two"))
    found = [
        decode(pb.Operator, item.key, item.value)
        for item in (await team.gateway.direct.list(keys.operators_prefix)).items
        if "root." in item.key
    ]
    (genuine,) = (operator for operator in found if operator.age_recipient == own(root).recipient)
    forged.approval.CopyFrom(genuine.approval)
    await team.gateway.direct.put(keys.operator(forged.name), encode(forged))
    assert "operator root.x-1;" in await refused(ann, *SET, "two")
    assert thief not in await recipients_of(team.gateway.direct)
