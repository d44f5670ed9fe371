"""Hosts of an ingress: conflicts with other environments, serving nodes, hosts without public certificates."""

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
from devopsellence.cli.store.snapshot import release_numbers
from devopsellence.cli.util.text import few
from devopsellence.placement import Placement
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

#: Suffixes outside public DNS: RFC 6761, RFC 6762, RFC 8375, and ICANN's .internal.
_PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa", ".test", ".invalid", ".example", ".lan")


@dataclass(frozen=True, order=True)
class HostOwner:
    """Another environment with the same host, and the nodes attached to both environments."""

    host: str
    environment: EnvironmentRef
    nodes: tuple[str, ...]


def target_services(ingress: Ingress) -> frozenset[str]:
    """Return the target services of the rules."""
    return frozenset(rule.service for rule in ingress.rules)


def nodes_serving(ingress: Ingress, placed: Placement) -> list[str]:
    """Return the nodes that will serve the ingress: nodes with all target services, sorted."""
    wanted = target_services(ingress)
    return sorted(node for node, services in placed.services.items() if wanted <= set(services))


def hosts_without_rule(ingress: Ingress) -> list[str]:
    """Return the hosts without a rule, which respond only with 404."""
    ruled = {rule.host for rule in ingress.rules}
    return [host for host in ingress.hosts if host not in ruled]


def uncertifiable_hosts(ingress: Ingress) -> list[str]:
    """Return the hosts for which no public authority issues a certificate; empty unless a public one is used."""
    if ingress.tls_mode != Ingress.AUTO or ingress.tls_ca_directory_url:
        return []
    return [host for host in ingress.hosts if is_address(host) or _is_private(host)]


def is_address(host: str) -> bool:
    """Return True for an IP address."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def is_loopback(host: str) -> bool:
    """Return True for a name of the local machine (RFC 6761, section 6.3)."""
    return host == "localhost" or host.endswith(".localhost")


def _is_private(host: str) -> bool:
    return "." not in host or host.endswith(_PRIVATE_SUFFIXES)


def host_owners(
    hosts: Collection[str],
    nodes: Collection[str],
    others: Mapping[EnvironmentRef, tuple[Collection[str], Collection[str]]],
) -> list[HostOwner]:
    """Return the owners of ``hosts`` among ``others`` (nodes and hosts by environment) on ``nodes``, sorted. Pure."""
    owners = []
    for ref, (other_nodes, other_hosts) in others.items():
        shared = tuple(sorted(set(nodes) & set(other_nodes)))
        owners += [HostOwner(host, ref, shared) for host in set(hosts) & set(other_hosts) if shared]
    return sorted(owners)


async def find_conflict(
    etcd: Etcd, ref: EnvironmentRef, hosts: Collection[str], nodes: Collection[str]
) -> CliError | None:
    """Return the error about hosts of another environment on one of ``nodes``, else None.

    An environment owns the hosts of its releases in use: the newest, the rollout target, and of a rollout that has not
    settled the release to roll back to. Unreadable records are ignored, because agents route a host for a single
    environment anyway.
    """
    if not hosts or not nodes:
        return None
    owners = host_owners(hosts, nodes, await _others(etcd, ref, nodes))
    return _conflict(ref, owners) if owners else None


async def environment_hosts(etcd: Etcd, ref: EnvironmentRef) -> frozenset[str]:
    """Return the hosts of the environment: those of its releases in use."""
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
    hosts_by_environment = await concurrently(
        _hosts_of(reader, other, environment) for other, environment in sharing.items()
    )
    return {other: (sharing[other].nodes, hosts) for other, hosts in zip(sharing, hosts_by_environment, strict=True)}


async def _hosts_of(reader: Reader, ref: EnvironmentRef, environment: Environment) -> frozenset[str]:
    keys = reader.etcd.keys
    rollout = await reader.get(keys.rollout(ref), Rollout)
    numbers = sorted(release_numbers(environment.latest_release, rollout).in_use)
    releases = await asyncio.gather(*(reader.get(keys.release(ref, number), Release) for number in numbers))
    return frozenset(host for release in releases if release is not None for host in release.ingress.hosts)


def _conflict(ref: EnvironmentRef, owners: Sequence[HostOwner]) -> CliError:
    findings = [
        Finding(
            "ingress_conflict",
            f"host {owner.host} belongs to {owner.environment}, which is also on {', '.join(owner.nodes)}",
            next_actions=_fixes(owner),
        )
        for owner in owners
    ]
    if len(findings) == 1:
        return CliError("ingress_conflict", f"{ref}: {findings[0].message}", findings=findings)
    hosts = few(sorted({owner.host for owner in owners}))
    return CliError("ingress_conflict", f"{ref}: other environments on its nodes have {hosts}", findings=findings)


def _fixes(owner: HostOwner) -> tuple[NextAction, ...]:
    detach = f"devopsellence node detach {owner.nodes[0]} --env {owner.environment}"
    return (
        NextAction("remove the host from ingress.hosts of one environment, then", "devopsellence deploy"),
        NextAction("or detach the other environment from the node", detach),
    )
