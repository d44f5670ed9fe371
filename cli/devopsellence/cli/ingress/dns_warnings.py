"""DNS check of a deploy, during the build: warns about hosts that do not point to the nodes."""

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

#: Time limit of all lookups, in seconds; later answers are ignored.
SECONDS: Final = 2.0
_AT_A_TIME: Final = 50


async def warnings(etcd: Etcd, hosts: Sequence[str], nodes: Sequence[Node], server: str) -> list[str]:
    """Return warnings about hosts that do not point to ``nodes``; none if DNS does not answer in time."""
    problems: dict[str, str] = {}
    try:
        async with asyncio.timeout(SECONDS):
            await _look(etcd, hosts, nodes, server, problems)
    except (TimeoutError, StoreError):
        pass
    except CliError as error:
        return [error.message]
    hosts_by_problem: dict[str, list[str]] = {}
    for host in hosts:
        if host in problems:
            hosts_by_problem.setdefault(problems[host], []).append(host)
    check = "devopsellence ingress check"
    return [f"DNS of {few(which)}: {what} (after a fix, run {check})" for what, which in hosts_by_problem.items()]


async def _look(etcd: Etcd, hosts: Sequence[str], nodes: Sequence[Node], server: str, problems: dict[str, str]) -> None:
    """Add problems of hosts to ``problems`` as lookups finish."""
    beats = await Reader(etcd).get_many({node.name: etcd.keys.heartbeat(node.name) for node in nodes}, Heartbeat)
    names, slots = CachingResolver(server, seconds=SECONDS), asyncio.Semaphore(_AT_A_TIME)
    known = await addresses(names, {node.name: address_of(node, beats.get(node.name)) for node in nodes})
    await asyncio.gather(*(_look_up(host, names, known, slots, problems) for host in hosts))


async def _look_up(
    host: str,
    names: CachingResolver,
    known: Mapping[str, frozenset[str]],
    slots: asyncio.Semaphore,
    problems: dict[str, str],
) -> None:
    async with slots:
        answer = await names.find(host)
    check = check_findings.dns_result(host, answer, known)
    if answer.kind is not LookupStatus.SILENT and check.severity == "error":
        problems[host] = check.message
