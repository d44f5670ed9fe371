"""What a deploy asks of DNS while it builds: hosts that lead elsewhere are warned of, and nothing waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.cli.ingress import check_findings
from devopsellence.cli.ingress.check import address_of
from devopsellence.cli.ingress.dns import CachingResolver, LookupStatus, addresses
from devopsellence.cli.output import CliError
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.text import few
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd

#: For all of it; who has not answered by then is not waited for.
SECONDS: Final = 2.0
_AT_A_TIME: Final = 50


async def warnings(etcd: Etcd, hosts: Sequence[str], nodes: Sequence[Node], server: str) -> list[str]:
    """A sentence for the hosts that do not lead to ``nodes``, which are to serve them; nothing where nobody answers."""
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(SECONDS):
            await _look(etcd, hosts, nodes, server, found)
    except (TimeoutError, StoreError):
        pass
    except CliError as error:
        return [error.message]
    same: dict[str, list[str]] = {}
    for host in hosts:
        if host in found:
            same.setdefault(found[host], []).append(host)
    check = "devopsellence ingress check"
    return [f"DNS of {few(which)}: {what} ({check} tells when it is right)" for what, which in same.items()]


async def _look(etcd: Etcd, hosts: Sequence[str], nodes: Sequence[Node], server: str, found: dict[str, str]) -> None:
    """Put into ``found`` what is wrong with hosts, as it comes to be known."""
    beats = await Reader(etcd).get_many({node.name: etcd.keys.heartbeat(node.name) for node in nodes}, Heartbeat)
    names, slots = CachingResolver(server, seconds=SECONDS), asyncio.Semaphore(_AT_A_TIME)
    known = await addresses(names, {node.name: address_of(node, beats.get(node.name)) for node in nodes})
    await asyncio.gather(*(_one(host, names, known, slots, found) for host in hosts))


async def _one(
    host: str,
    names: CachingResolver,
    known: Mapping[str, frozenset[str]],
    slots: asyncio.Semaphore,
    found: dict[str, str],
) -> None:
    async with slots:
        answer = await names.find(host)
    check = check_findings.dns_result(host, answer, known)
    if answer.kind is not LookupStatus.SILENT and check.severity == "error":
        found[host] = check.message
