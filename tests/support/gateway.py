"""A gateway in this process, in front of a real etcd, and settings of its callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList, Node
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.client_certificate import read_credentials
from devopsellence.controller.gateway.audit.trail import AuditOptions
from devopsellence.controller.gateway.rules.refusal import Refused
from devopsellence.controller.gateway.server import Gateway, GatewayOptions
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR, user_of_node, user_of_operator
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.until import eventually

#: Roles of an operator that uses an environment.
DEPLOY_AND_EXECUTE: Final = (Role.DEPLOYER, Role.EXEC)


class RunningGateway:
    """A gateway that answers calls. ``direct`` is a connection to etcd itself."""

    def __init__(self, gateway: Gateway, settings: Settings, authority: Authority, direct: Etcd) -> None:
        self.gateway = gateway
        self.address = gateway.address
        self.authority = authority
        self.direct = direct
        self._settings = settings

    def settings(self, common_name: str, *, authority: Authority | None = None) -> Settings:
        """Return settings of a caller with a new certificate for ``common_name``."""
        through = replace(self._settings, endpoints=(self.address,))
        files = (authority or self.authority).issue(common_name)
        return replace(settings_with(through, files), ca_cert=self.authority.ca_cert)

    def node(self, name: str) -> Settings:
        return self.settings(user_of_node(f"uid-{name}"))

    def operator(self, name: str) -> Settings:
        return self.settings(user_of_operator(name))

    def root(self) -> Settings:
        return self.settings(USER_OPERATOR)

    def controller(self) -> Settings:
        return self.settings(USER_CONTROLLER)

    async def register(self, *nodes: str) -> None:
        """Register nodes, and return once the gateway knows them."""
        for name in nodes:
            await self.direct.put(self.direct.keys.node(name), encode(Node(name=name, uid=f"uid-{name}")))
        await self._known(*(user_of_node(f"uid-{name}") for name in nodes))

    async def grant(self, operator: str, *environments: str, roles: Sequence[Role] = DEPLOY_AND_EXECUTE) -> None:
        """Grant an operator access, and return once the gateway knows of it."""
        access = record_of(operator, Rights(frozenset(product(roles, environments))))
        await self.direct.put(self.direct.keys.operator_access(operator), encode(access))
        await self._known(user_of_operator(operator))

    async def deny(self, *certificates: DeniedCertificate) -> None:
        """Replace the deny-list."""
        await self.direct.put(self.direct.keys.denied, encode(DenyList(certificates=certificates)))

    async def _known(self, *identities: str) -> None:
        for identity in identities:
            await eventually(f"the gateway admits {identity}", partial(self._knows, identity), every=0.01)

    async def _knows(self, identity: str) -> bool:
        with suppress(Refused):
            self.gateway.identities.caller([identity])
            return True
        return False


@asynccontextmanager
async def running_gateway(
    settings: Settings,
    authority: Authority,
    issuing: IssuingFiles | None = None,
    *,
    audit: Path | None = None,
    port: int = 0,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway to the etcd of ``settings``, whose callers have certificates of ``authority``.

    ``issuing``: authority that signs certificates at the gateway; None: none are signed. ``audit``: folder of its audit
    trail. ``port``: 0 for any.
    """
    files = authority.issue_server("gateway")
    async with Etcd(settings) as etcd:
        trail = AuditOptions(audit) if audit is not None else None
        gateway = Gateway(GatewayOptions(f"127.0.0.1:{port}", files, issuing=issuing, audit=trail), settings, etcd)
        serving = asyncio.create_task(gateway.run())
        try:
            async with asyncio.timeout(10):
                await gateway.ready()
            yield RunningGateway(gateway, settings, authority, etcd)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def open_channel(settings: Settings) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel as ``settings`` say, for requests that the store's client never makes."""
    _, credentials = read_credentials(settings.ca_cert, settings.cert, settings.key)
    assert credentials is not None
    options = [("grpc.ssl_target_name_override", settings.server_name), ("grpc.enable_retries", 0)]
    async with grpc.aio.secure_channel(settings.target, credentials, options=options) as channel:
        yield channel
