"""Work of a rotation through the gateways: record whom everybody is to trust, and wait until all servers do so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from devopsellence.agent_identity import server_name
from devopsellence.api.v1.stored_pb2 import Authorities, Gateways, Heartbeat, IssuedCertificate, Node, OperatorAccess
from devopsellence.certificates.authority import BACKDATE
from devopsellence.certificates.facts import fingerprint
from devopsellence.certificates.files import KeyPair
from devopsellence.cli.agent.client import endpoint_of
from devopsellence.cli.cluster import programs
from devopsellence.cli.cluster.folder import ControlPlane
from devopsellence.cli.output import CliError
from devopsellence.cli.rotation.probe import Finding, Server, described, probe_all
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.addresses import with_port
from devopsellence.gateways import gateway_addresses
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_operator
from devopsellence.store.settings import ETCD_SERVER_NAME

#: Pause between two looks at servers that are not ready: nothing tells when a person has restarted one.
_LOOK_AGAIN_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Servers:
    """Servers of the cluster. ``unknown``: sentences about nodes whose agent has no known address.

    ``uids``: machines of the nodes, by name.
    """

    gateways: tuple[Server, ...]
    agents: tuple[Server, ...]
    members: tuple[Server, ...]
    unknown: tuple[str, ...]
    uids: Mapping[str, str]


async def find_servers(etcd: Etcd, machines: ControlPlane, left_out: Collection[str]) -> Servers:
    """Return the servers of the cluster, but those of the nodes ``left_out``.

    Raises:
        CliError: ``node_unknown``: such a node is not registered.
    """
    keys, reader = etcd.keys, Reader(etcd)
    nodes = {node.name: node for node in (await reader.get_prefix(keys.nodes_prefix, Node)).values()}
    beats = {beat.node: beat for beat in (await reader.get_prefix(keys.heartbeats_prefix, Heartbeat)).values()}
    for name in left_out:
        if name not in nodes:
            raise CliError("node_unknown", f"there is no node {name}", exit_code=2)
    endpoints = [endpoint_of(name, nodes[name], beats.get(name)) for name in sorted(nodes.keys() - set(left_out))]
    recorded = await reader.get(keys.gateways, Gateways) or Gateways()
    addresses = dict.fromkeys((*gateway_addresses(recorded), *etcd.settings.endpoints))
    members = {name: with_port(address, programs.CLIENT_PORT) for name, address in machines.members.items()}
    return Servers(
        tuple(Server("the gateway", address, ETCD_SERVER_NAME) for address in addresses),
        tuple(
            Server(f"the agent of {end.node}", end.address, server_name(end.uid)) for end in endpoints if end.address
        ),
        tuple(Server(f"etcd's member {name}", address, ETCD_SERVER_NAME) for name, address in members.items()),
        tuple(endpoint.problem for endpoint in endpoints if not endpoint.address),
        {endpoint.node: endpoint.uid for endpoint in endpoints},
    )


async def announce(etcd: Etcd, roots: Sequence[bytes]) -> None:
    """Record the roots (PEM) to trust; certificates are renewed under the first."""
    texts = [root.decode("ascii") for root in roots]

    def edit(before: Authorities | None) -> Authorities:
        if before is not None and list(before.certificates) == texts:
            return before
        return Authorities(certificates=texts, updated_at=transaction.now())

    await transaction.change(etcd, etcd.keys.authorities, Authorities, edit)


async def wait_ready(
    servers: Sequence[Server],
    trusted: bytes,
    own: KeyPair,
    progress: Callable[[str], None],
    *,
    seconds: float,
) -> dict[Server, Finding]:
    """Wait until each server accepts ``own`` and has a certificate under ``trusted`` (PEM).

    Returns:
        findings for the servers that do not within ``seconds``.
    """
    pending, shown = list(servers), 0
    end = asyncio.get_running_loop().time() + seconds
    while True:
        findings = await probe_all(pending, trusted, own)
        pending = [server for server in pending if findings[server] is not Finding.OK]
        if not pending or asyncio.get_running_loop().time() > end:
            return {server: findings[server] for server in pending}
        if len(pending) != shown:
            shown = len(pending)
            progress(f"Waiting for {shown} of {len(servers)} servers: {described(findings)[0]}")
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def operators_unheard(etcd: Etcd) -> list[str]:
    """Return the operators who have run no command since the roots were recorded, sorted.

    A command that learns of a new root has its certificate renewed.
    """
    stored = await Reader(etcd).get(etcd.keys.authorities, Authorities) or Authorities()
    since = stored.updated_at.ToDatetime(tzinfo=UTC) - BACKDATE
    return await _operators_but(etcd, lambda record: record.not_before.ToDatetime(tzinfo=UTC) >= since)


async def operators_without(etcd: Etcd, root: x509.Certificate) -> list[str]:
    """Return the operators for whom no gateway has signed a certificate under ``root`` that is valid, sorted."""
    wanted, now = fingerprint(root), datetime.now(UTC)
    return await _operators_but(
        etcd, lambda record: record.authority == wanted and record.not_after.ToDatetime(tzinfo=UTC) > now
    )


async def _operators_but(etcd: Etcd, counts: Callable[[IssuedCertificate], bool]) -> list[str]:
    """Return the operators without a certificate that ``counts``."""
    keys, reader = etcd.keys, Reader(etcd)
    operators = await reader.get_prefix(keys.all_operator_access_prefix, OperatorAccess)
    issued = (await reader.get_prefix(keys.issued_certificates_prefix, IssuedCertificate)).values()
    heard = {record.identity for record in issued if counts(record)}
    names = map(keys.parse_operator_access, operators)
    return sorted(name for name in names if user_of_operator(name) not in heard)
