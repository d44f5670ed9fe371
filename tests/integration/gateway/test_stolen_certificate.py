"""A stolen certificate that its thief has renewed: denied with all that came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing

from devopsellence.access.certificate import serial_number
from devopsellence.access.roles import Role
from devopsellence.certificates.request import new_request
from devopsellence.store.errors import PermissionDenied
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.gateway.test_operator_commands import ADMIN, Commands, run
from tests.support.authority import Authority
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


@pytest.fixture
async def gateway(settings: Settings, authority: Authority) -> AsyncIterator[RunningGateway]:
    """A gateway that signs certificates."""
    async with running_gateway(settings, authority, authority.issue_by_intermediate()) as running:
        # Its lines would be among the output of the commands.
        with structlog.testing.capture_logs():
            yield running


async def test_renewals_of_a_stolen_certificate_are_denied_with_it(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = Commands(gateway, tmp_path)
    for name in ("ann", "bob", "eve"):
        await gateway.grant(name, "*", roles=ADMIN if name != "eve" else (Role.VIEWER,))
    thief, bob = commands.operator("ann").settings, commands.operator("bob")
    assert thief.cert is not None
    serials = [serial_number(thief.cert.read_bytes())]
    for number in range(2):
        request = new_request()
        async with Etcd(thief) as etcd:
            chain = await etcd.renew_certificate(request.csr)
        certificate, key = tmp_path / f"{number}.crt", tmp_path / f"{number}.key"
        certificate.write_bytes(chain)
        key.write_bytes(request.key)
        thief = replace(thief, cert=certificate, key=key)
        serials.append(serial_number(chain))
    async with Etcd(thief) as etcd:
        of_another = serial_number(await etcd.sign_certificate(new_request().csr, "operator:eve"))
    denied = await run(bob, "deny", serials[0], "--reason", "stolen", "-y")
    assert denied["renewals"] == serials[1:]
    assert denied["signed"] == [{"serial": of_another, "identity": "operator:eve"}]

    async def refused() -> bool:
        try:
            async with Etcd(thief) as etcd:
                await etcd.list(etcd.keys.nodes_prefix)
        except PermissionDenied:
            return True
        return False

    await eventually("the last renewal is refused", refused)
    assert {entry["serial"] for entry in (await run(bob, "list"))["denied"]} == set(serials)
    await run(bob, "deny", serials[0], "--undo")
    assert (await run(bob, "list"))["denied"] == []
    await eventually("the last renewal is accepted", refused, lambda found: not found)
