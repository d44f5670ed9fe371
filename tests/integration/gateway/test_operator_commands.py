"""The commands about operators, through a gateway: as root, as an admin, and as others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from devopsellence.access.certificate import serial_number
from devopsellence.access.rights import rights_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import PermissionDenied
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.cli.secret_operator import CONFIG, Operator
from tests.integration.gateway.key_classes import OWN, fields
from tests.support.gateway import RunningGateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

ADMIN = (Role.ADMIN,)


class Commands:
    """Command lines of several operators, in a folder with a configuration."""

    def __init__(self, gateway: RunningGateway, folder: Path) -> None:
        self._gateway, self._folder = gateway, folder
        (folder / "devopsellence.yml").write_text(CONFIG)

    def of(self, settings: Settings, name: str) -> Operator:
        cli = Operator(settings, self._folder, self._folder / f"{name}.age")
        cli.direct = self._gateway.direct.settings
        return cli

    def root(self) -> Operator:
        return self.of(self._gateway.root(), "root")

    def operator(self, name: str) -> Operator:
        return self.of(self._gateway.operator(name), name)


@pytest.fixture
def commands(gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    monkeypatch.chdir(tmp_path)
    # The gateway's lines would be among the output of the commands.
    with structlog.testing.capture_logs():
        yield Commands(gateway, tmp_path)


async def run(cli: Operator, *words: str) -> dict[str, Any]:
    return await asyncio.to_thread(cli.json, "operator", *words)


async def fails(cli: Operator, *words: str) -> tuple[str, int, str]:
    """Return code, exit code and message of a command that must fail."""
    error = await asyncio.to_thread(cli.error, "operator", *words)
    return error["code"], error["exit_code"], error["message"]


async def roles(gateway: RunningGateway, name: str) -> set[tuple[Role, str]]:
    key = gateway.direct.keys.operator_access(name)
    item = await gateway.direct.get(key)
    assert item is not None
    return set(rights_of(decode(pb.OperatorAccess, key, item.value)).grants)


async def test_root_grants_and_revokes(gateway: RunningGateway, commands: Commands) -> None:
    root = commands.root()
    await gateway.grant("ann", str(OWN), roles=[Role.DEPLOYER])
    done = await run(root, "grant", "ann", "--role", "exec", "--role", "viewer", "--environment", "acme/*")
    assert done["roles"] == [
        {"role": "viewer", "environments": ["acme/*"]},
        {"role": "deployer", "environments": [str(OWN)]},
        {"role": "exec", "environments": ["acme/*"]},
    ]
    assert await roles(gateway, "ann") == {
        (Role.DEPLOYER, str(OWN)),
        (Role.EXEC, "acme/*"),
        (Role.VIEWER, "acme/*"),
    }
    wider = await fails(root, "revoke", "ann", "--role", "exec", "--env", str(OWN))
    assert wider[:2] == ("role_not_granted", 1)
    assert wider[2].startswith(f"operator ann was not granted exec in {OWN}, but has: viewer in acme/*; ")
    await run(root, "revoke", "ann", "--role", "exec", "--environment", "*")
    await run(root, "revoke", "ann", "--role", "viewer")
    assert await roles(gateway, "ann") == {(Role.DEPLOYER, str(OWN))}
    assert (await fails(root, "grant", "eve", "--role", "exec", "--env", "*"))[0] == "operator_unknown"
    shown = (await run(root, "list"))["operators"]
    assert [(entry["operator"], entry["denied"]) for entry in shown] == [("ann", False)]


async def test_record_of_a_version_without_roles_is_carried_over(gateway: RunningGateway, commands: Commands) -> None:
    key = gateway.direct.keys.operator_access("ann")
    await gateway.direct.put(key, encode(pb.OperatorAccess(name="ann", environments=["*"], nodes=True)))
    await run(commands.root(), "revoke", "ann", "--role", "admin")
    item = await gateway.direct.get(key)
    assert item is not None
    record = decode(pb.OperatorAccess, key, item.value)
    assert (list(record.environments), record.nodes) == ([], False)
    assert await roles(gateway, "ann") == {(Role.DEPLOYER, "*"), (Role.EXEC, "*")}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("grant", "ann", "--role", "exec", "--environment", "acme"), "invalid_environments"),
        (("grant", "ann", "--role", "exec", "--environment", "*/production"), "invalid_environments"),
        (("revoke", "ann", "--role", "exec", "--environment", ""), "invalid_environments"),
        (("grant", "ann", "--role", "owner", "--environment", "*"), "usage"),
        (("grant", "ann", "--role", "exec"), "usage"),
        (("grant", "a/b", "--role", "exec", "--environment", "*"), "invalid_name"),
        (("remove", "a/b", "-y"), "invalid_name"),
        (("remove", "ann"), "confirmation_required"),
        (("deny", "xyz", "-y"), "invalid_serial"),
        (("deny", "0", "-y"), "invalid_serial"),
        (("deny", "1f", "-y", "--reason", "a\nb"), "usage"),
    ],
)
async def test_bad_input_is_refused(commands: Commands, words: tuple[str, ...], code: str) -> None:
    assert (await fails(commands.root(), *words))[:2] == (code, 2)


async def test_admin_grants_what_it_has_and_others_nothing(gateway: RunningGateway, commands: Commands) -> None:
    await gateway.grant("ann", "acme/*", roles=[Role.ADMIN, Role.DEPLOYER])
    await gateway.grant("bob", "acme/*", roles=[Role.DEPLOYER])
    ann, bob = commands.operator("ann"), commands.operator("bob")
    await run(ann, "grant", "bob", "--role", "admin", "--environment", str(OWN))
    await run(ann, "revoke", "bob", "--role", "admin")
    for role, pattern in (("exec", "acme/*"), ("deployer", "*"), ("viewer", "other/*")):
        code, exit_code, message = await fails(ann, "grant", "bob", "--role", role, "--environment", pattern)
        assert (code, exit_code) == ("etcd_permission_denied", 1)
        assert f"operator ann may not grant {role} in {pattern}" in message
    denied = await fails(ann, "remove", "bob", "-y")
    assert (
        denied[2]
        == "access denied: operator ann may not remove operators, which needs the role admin in all environments"
    )
    denied = await fails(bob, "grant", "bob", "--role", "exec", "--environment", "acme/*")
    assert denied[2] == "access denied: operator bob may not grant or revoke, which needs the role admin"
    assert [entry["operator"] for entry in (await run(ann, "list"))["operators"]] == ["ann", "bob"]
    # A deployer sees who may approve recipients.
    assert [entry["operator"] for entry in (await run(bob, "list"))["operators"]] == ["ann", "bob"]
    await run(ann, "grant", "bob", "--role", "viewer", "--environment", str(OWN))
    await run(ann, "revoke", "bob", "--role", "deployer")
    assert [entry["operator"] for entry in (await run(bob, "list"))["operators"]] == ["bob"]


async def test_removed_operator_loses_everything_and_secrets_are_named(
    gateway: RunningGateway, commands: Commands
) -> None:
    keys = gateway.direct.keys
    await gateway.direct.put(keys.environment(OWN), encode(pb.Environment(**fields(OWN))))
    await gateway.grant("ann", "*", roles=[Role.DEPLOYER])
    await gateway.grant("amy", "*", roles=ADMIN)
    ann, amy, root = commands.operator("ann"), commands.operator("amy"), commands.root()
    await asyncio.to_thread(lambda: ann.set("OURS", b"x"))
    await run(root, "recipients", "approve", "-y")
    await asyncio.to_thread(lambda: root.set("LATER", b"x"))
    unclear = pb.Operator(name="ann.old-123456", age_recipient="age1old")
    await gateway.direct.put(keys.operator(unclear.name), encode(unclear))
    async with Etcd(gateway.operator("ann")) as etcd:
        batches = etcd.watch(keys.secrets_prefix(OWN), start_revision=0)
        await anext(batches)
        planned = await run(amy, "remove", "ann", "--dry-run")
        assert not planned["removed"]
        done = await run(amy, "remove", "ann", "-y")
        assert done["removed"]
        # Of the two records of one transaction, either is seen first.
        with pytest.raises(PermissionDenied, match=r"is denied: removed by amy@|has been granted no access"):
            async for _ in batches:
                pass
    assert {secret["name"] for secret in done["secrets_seen"]} == {"OURS", "LATER"}
    assert done["recipients_unclear"] == ["ann.old-123456"]
    left = [item.key for item in (await gateway.direct.list(keys.operators_prefix)).items]
    assert [key for key in left if key.startswith(keys.operator("ann."))] == [keys.operator("ann.old-123456")]
    assert await gateway.direct.get(keys.operator_access("ann")) is None
    assert not (await run(amy, "remove", "ann", "-y"))["removed"]
    assert (await run(amy, "remove", "ann", "-y", "--recipient", "ann.old-123456"))["removed"]
    assert await gateway.direct.get(keys.operator("ann.old-123456")) is None
    assert (await run(root, "list"))["denied"][0]["name"] == "operator:ann"
    # The record alone does not bring the certificate back.
    await gateway.direct.put(keys.operator_access("ann"), encode(pb.OperatorAccess(name="ann", environments=["*"])))
    assert (await fails(ann, "list"))[2].startswith("access denied: the certificate of operator:ann is denied")
    assert (await fails(root, "remove", "eve", "-y"))[0] == "operator_unknown"
    assert (await fails(root, "remove", "ann", "-y", "--recipient", "x"))[0] == "recipient_unknown"


async def test_stolen_certificate_is_denied_by_serial_number(gateway: RunningGateway, commands: Commands) -> None:
    await gateway.grant("ann", "*", roles=ADMIN)
    stolen, renewed = commands.operator("ann"), commands.operator("ann")
    certificate = stolen.settings.cert
    assert certificate is not None
    serial = serial_number(certificate.read_bytes())
    await run(renewed, "deny", f"serial=0{serial.upper()}", "--reason", "stolen", "-y")

    async def refused() -> bool:
        return (await asyncio.to_thread(stolen.run, "operator", "list")).exit_code == 1

    await eventually("the certificate is refused", refused)
    assert (await run(renewed, "list"))["denied"][0]["serial"] == serial
    await run(renewed, "deny", serial, "--undo")
    await eventually("the certificate is accepted", refused, lambda found: not found)
    assert (await fails(renewed, "deny", serial, "--undo"))[0] == "certificate_not_denied"
