"""Access of operators at an agent: follows the records through a gateway, and stays as it was without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied
from devopsellence.access.roles import Action, Role
from devopsellence.api.v1.stored_pb2 import DeniedCertificate
from devopsellence.nodeagent.access import AccessMirror
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.etcd import Etcd
from tests.integration.gateway.key_classes import OWN
from tests.support.gateway import RunningGateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

ANN = Certificate("operator:ann", "a1")


@asynccontextmanager
async def running_mirror(gateway: RunningGateway, path: Path, *, cut_off: bool = False) -> AsyncIterator[AccessMirror]:
    settings = gateway.node("n1")
    # Unregistered: refused by the gateway.
    through = gateway.node("nobody") if cut_off else settings
    with StateFolder(path) as folder:
        async with Etcd(through) as etcd:
            mirror = AccessMirror(NodeContext(etcd, "n1", "uid-n1", folder, ThreadPool(1, "disk")), through)
            await mirror.load()
            running = asyncio.create_task(mirror.run())
            try:
                yield mirror
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await mirror.flush()


async def becomes(mirror: AccessMirror, expected: str, action: Action = Action.EXECUTE) -> None:
    """Return once the refusal to ann begins with ``expected``; "": permitted."""

    async def refusal() -> str:
        assert mirror.policy is not None
        try:
            mirror.policy.check(ANN, action, str(OWN))
        except AccessDenied as error:
            return str(error)
        return ""

    def matches(found: str) -> bool:
        return found.startswith(expected) if expected else not found

    await eventually(f"the refusal is {expected!r}", refusal, matches)


async def test_agent_follows_grants_revocations_and_denials(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.register("n1")
    keys, changes = gateway.direct.keys, []
    async with running_mirror(gateway, tmp_path) as mirror:
        mirror.subscribe(lambda: changes.append(mirror.policy))
        await becomes(mirror, "operator 'ann' has been granted no access")
        await gateway.grant("ann", str(OWN), roles=[Role.EXEC])
        await becomes(mirror, "")
        await becomes(mirror, "operator ann lacks the role deployer", Action.READ_LOGS)
        await gateway.grant("ann", "acme/shop/staging", roles=[Role.EXEC])
        await becomes(mirror, "operator ann lacks the role exec in the environment acme/shop/production")
        await gateway.grant("ann", "*", roles=[Role.EXEC])
        await becomes(mirror, "")
        await gateway.deny(DeniedCertificate(serial="a1"))
        await becomes(mirror, "the certificate of operator:ann with the serial number a1 is denied")
        await gateway.direct.put(keys.denied, b"garbage")
        await asyncio.sleep(0.3)
        await becomes(mirror, "the certificate of operator:ann with the serial number a1 is denied")
        await gateway.direct.delete(keys.denied)
        await becomes(mirror, "")
        await gateway.direct.put(keys.operator_access("ann"), b"garbage")
        await becomes(mirror, "operator 'ann' has been granted no access")
        assert len(changes) == 6


async def test_agent_without_a_gateway_keeps_what_it_knows(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.register("n1")
    await gateway.grant("ann", str(OWN), roles=[Role.EXEC])
    await gateway.deny(DeniedCertificate(name="operator:bob"))
    async with running_mirror(gateway, tmp_path) as mirror:
        await becomes(mirror, "")
    await gateway.direct.delete(gateway.direct.keys.operator_access("ann"))
    async with running_mirror(gateway, tmp_path, cut_off=True) as mirror:
        await asyncio.sleep(0.5)
        await becomes(mirror, "")
        assert mirror.policy is not None
        with pytest.raises(AccessDenied, match="the certificate of operator:bob is denied"):
            mirror.policy.check(Certificate("operator:bob"), Action.VIEW)
    # Deleted while the agent was away: the list has no record to report.
    async with running_mirror(gateway, tmp_path) as mirror:
        await becomes(mirror, "operator 'ann' has been granted no access")
