"""What can be known of hosts before anything is written: who has them, who serves them, who certifies them."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Environment, Release, Rollout
from devopsellence.api.v1.workload_pb2 import Ingress
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.cli.store.snapshot import target_of
from devopsellence.cli.util.text import few
from devopsellence.placement import Layout
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

#: Names that no public DNS has: RFC 6761, RFC 6762, RFC 8375, and ICANN's .internal.
_PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa", ".test", ".invalid", ".example", ".lan")


@dataclass(frozen=True, order=True)
class HostOwner:
    """Another environment that has a host, and the nodes that it shares with ours."""

    host: str
    environment: EnvironmentRef
    nodes: tuple[str, ...]


def target_services(ingress: Ingress) -> frozenset[str]:
    """The services that the rules lead to."""
    return frozenset(rule.service for rule in ingress.rules)


def nodes_serving(ingress: Ingress, placed: Layout) -> list[str]:
    """The nodes that will serve it: those that run all services that its rules lead to, sorted."""
    wanted = target_services(ingress)
    return sorted(node for node, services in placed.services.items() if wanted <= set(services))


def hosts_without_rule(ingress: Ingress) -> list[str]:
    """The hosts that no rule is about: all that they answer is 404."""
    ruled = {rule.host for rule in ingress.rules}
    return [host for host in ingress.hosts if host not in ruled]


def uncertifiable_hosts(ingress: Ingress) -> list[str]:
    """The hosts for which no public authority makes a certificate, where one is to be asked."""
    if ingress.tls_mode != Ingress.AUTO or ingress.tls_ca_directory_url:
        return []
    return [host for host in ingress.hosts if is_address(host) or _is_private(host)]


def is_address(host: str) -> bool:
    """Whether it is an IP address."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def is_loopback(host: str) -> bool:
    """Whether it is a name for the machine itself (RFC 6761, section 6.3)."""
    return host == "localhost" or host.endswith(".localhost")


def _is_private(host: str) -> bool:
    return "." not in host or host.endswith(_PRIVATE_SUFFIXES)


def host_owners(
    hosts: Collection[str],
    nodes: Collection[str],
    others: Mapping[EnvironmentRef, tuple[Collection[str], Collection[str]]],
) -> list[HostOwner]:
    """Which of ``hosts`` ``others`` (their nodes and their hosts) have on one of ``nodes``; sorted. Pure."""
    found = []
    for ref, (theirs, taken) in others.items():
        shared = tuple(sorted(set(nodes) & set(theirs)))
        found += [HostOwner(host, ref, shared) for host in set(hosts) & set(taken) if shared]
    return sorted(found)


async def find_conflict(
    etcd: Etcd, ref: EnvironmentRef, hosts: Collection[str], nodes: Collection[str]
) -> CliError | None:
    """The error for hosts that another environment on one of ``nodes`` has; None where there is none.

    An environment has the hosts of its newest release and of the one that it is to run. What cannot be read is passed
    over: the agents give a host to one environment only, whatever is written.
    """
    if not hosts or not nodes:
        return None
    found = host_owners(hosts, nodes, await _others(etcd, ref, nodes))
    return _conflict(ref, found) if found else None


async def environment_hosts(etcd: Etcd, ref: EnvironmentRef) -> frozenset[str]:
    """The hosts that the environment has: of its newest release and of the one that it is to run."""
    reader = Reader(etcd)
    environment = await reader.get(etcd.keys.environment(ref), Environment)
    return await _hosts_of(reader, ref, environment) if environment is not None else frozenset()


async def _others(
    etcd: Etcd, ref: EnvironmentRef, nodes: Collection[str]
) -> dict[EnvironmentRef, tuple[Collection[str], Collection[str]]]:
    reader, keys = Reader(etcd), etcd.keys
    sharing: dict[EnvironmentRef, Environment] = {}
    for key, environment in (await reader.get_prefix(keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            other = keys.parse_environment(key)
            if other != ref and set(nodes) & set(environment.nodes):
                sharing[other] = environment
    found = await concurrently(_hosts_of(reader, other, environment) for other, environment in sharing.items())
    return {other: (sharing[other].nodes, hosts) for other, hosts in zip(sharing, found, strict=True)}


async def _hosts_of(reader: Reader, ref: EnvironmentRef, environment: Environment) -> frozenset[str]:
    keys = reader.etcd.keys
    rollout = await reader.get(keys.rollout(ref), Rollout)
    numbers = {environment.latest_release, target_of(rollout) if rollout is not None else 0} - {0}
    releases = await asyncio.gather(*(reader.get(keys.release(ref, number), Release) for number in sorted(numbers)))
    return frozenset(host for release in releases if release is not None for host in release.ingress.hosts)


def _conflict(ref: EnvironmentRef, found: Sequence[HostOwner]) -> CliError:
    findings = [
        Finding(
            "ingress_conflict",
            f"host {each.host} belongs to {each.environment}, which is on {', '.join(each.nodes)} as well",
            next_actions=_mend(each),
        )
        for each in found
    ]
    if len(findings) == 1:
        return CliError("ingress_conflict", f"{ref}: {findings[0].message}", findings=findings)
    hosts = few(sorted({each.host for each in found}))
    return CliError("ingress_conflict", f"{ref}: other environments on its nodes have {hosts}", findings=findings)


def _mend(each: HostOwner) -> tuple[NextAction, ...]:
    detach = f"devopsellence node detach {each.nodes[0]} --env {each.environment}"
    return (
        NextAction("take the host out of ingress.hosts there or here, then", "devopsellence deploy"),
        NextAction("or keep the two apart", detach),
    )
