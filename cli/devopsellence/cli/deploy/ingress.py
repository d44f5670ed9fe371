"""Ingress of a deploy: host conflicts, warnings, and the changes shown by ``--dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Ingress, Service
from devopsellence.cli.deploy.replicas import CurrentCopies
from devopsellence.cli.ingress.hosts import (
    find_conflict,
    hosts_without_rule,
    nodes_serving,
    target_services,
    uncertifiable_hosts,
)
from devopsellence.cli.util.text import few
from devopsellence.config.export import ingress_document
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def check_host_conflict(etcd: Etcd, ref: EnvironmentRef, ingress: Ingress | None, nodes: Sequence[Node]) -> None:
    """Raise an error if another environment on one of the attached ``nodes`` has one of the hosts.

    Raises:
        CliError: ``ingress_conflict``.
    """
    if ingress is None:
        return
    problem = await find_conflict(etcd, ref, list(ingress.hosts), [node.name for node in nodes])
    if problem is not None:
        raise problem


def serving_nodes(
    ingress: Ingress, services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies
) -> list[str]:
    """Return the names of the nodes that will serve the ingress, sorted."""
    return nodes_serving(ingress, current.place_when_reachable(services, nodes))


def warnings(ingress: Ingress, nodes: Sequence[str]) -> list[str]:
    """Return warnings about an ingress served by ``nodes``."""
    sentences = []
    if not nodes:
        services = ", ".join(sorted(target_services(ingress)))
        sentences.append(f"no node will serve the ingress: no node runs all target services ({services})")
    if idle := hosts_without_rule(ingress):
        sentences.append(f"ingress.hosts: no rule for {few(idle)}, so every request gets a 404")
    if private := uncertifiable_hosts(ingress):
        fix = "set ingress.tls.mode to off or manual, or ingress.tls.ca_directory_url to your own authority"
        sentences.append(f"no public authority issues a certificate for {few(private)}, so it stays plain HTTP; {fix}")
    return sentences


def change_lines(before: Ingress | None, after: Ingress | None, nodes: Sequence[str]) -> list[str]:
    """Return the planned ingress and its changes as lines; an empty list without an ingress."""
    if after is None:
        return [f"ingress: removed ({few(list(before.hosts))})"] if before is not None else []
    lines = [f"ingress: {few(list(after.hosts))} on {', '.join(nodes) or 'no node'}"]
    return lines + [f"  {change}" for change in changes(before, after)]


def change_document(before: Ingress | None, after: Ingress | None, nodes: Sequence[str]) -> dict[str, Any] | None:
    """Return the planned ingress and its changes in JSON form; None without an ingress before and after."""
    if after is None and before is None:
        return None
    return {
        "hosts": list(after.hosts) if after is not None else [],
        "nodes": list(nodes),
        "changes": changes(before, after),
    }


def changes(before: Ingress | None, after: Ingress | None) -> list[str]:
    """Return added (+), removed (-) and changed (~) hosts, rules and settings as text."""
    old, new = _facts(before), _facts(after)
    changed = [f"+ {name}{_value(new[name])}" for name in new if name not in old]
    changed += [f"- {name}{_value(old[name])}" for name in old if name not in new]
    return changed + [f"~ {name}: {old[name]} → {new[name]}" for name in new if name in old and old[name] != new[name]]


def _facts(ingress: Ingress | None) -> dict[str, str]:
    """Return all comparable settings of an ingress, by name."""
    if ingress is None:
        return {}
    document = ingress_document(ingress)
    facts = {f"host {host}": "" for host in ingress.hosts}
    facts |= {f"{rule.host}{rule.path_prefix}": f"{rule.service}:{rule.port}" for rule in ingress.rules}
    facts |= {f"tls.{key}": str(value) for key, value in document["tls"].items()}
    for key in ("redirect_http", "drain_timeout"):
        value = document.get(key)
        if value is not None:
            facts[key] = str(value).lower()
    return facts


def _value(value: str) -> str:
    return f" → {value}" if value else ""
