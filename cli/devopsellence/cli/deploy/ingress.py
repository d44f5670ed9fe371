"""What a deploy says of the ingress: what is refused, what is warned of, what of it would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devopsellence.api.v1.stored_pb2 import Assignment, Node
from devopsellence.api.v1.workload_pb2 import Ingress, Service
from devopsellence.cli.deploy.replicas import placements_held
from devopsellence.cli.ingress.hosts import (
    find_conflict,
    hosts_without_rule,
    nodes_serving,
    target_services,
    uncertifiable_hosts,
)
from devopsellence.cli.util.text import few
from devopsellence.config.export import ingress_document
from devopsellence.placement import layout
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def check_host_conflict(etcd: Etcd, ref: EnvironmentRef, ingress: Ingress | None, nodes: Sequence[Node]) -> None:
    """See to it that no other environment on one of the attached ``nodes`` has one of the hosts.

    Raises:
        CliError: ``ingress_conflict``.
    """
    if ingress is None:
        return
    problem = await find_conflict(etcd, ref, list(ingress.hosts), [node.name for node in nodes])
    if problem is not None:
        raise problem


def serving_nodes(
    ingress: Ingress, services: Sequence[Service], nodes: Sequence[Node], assigned: Mapping[str, Assignment]
) -> list[str]:
    """The nodes that will serve it, sorted."""
    return nodes_serving(ingress, layout(services, nodes, placements_held(assigned)))


def warnings(ingress: Ingress, nodes: Sequence[str]) -> list[str]:
    """Sentences about an ingress that ``nodes`` will serve, and that will not do what is meant."""
    found = []
    if not nodes:
        wanted = ", ".join(sorted(target_services(ingress)))
        found.append(f"the ingress is served nowhere: no node will run all that its rules lead to ({wanted})")
    if idle := hosts_without_rule(ingress):
        found.append(f"ingress.hosts: no rule is about {few(idle)}, so every request there is answered 404")
    if private := uncertifiable_hosts(ingress):
        mend = "set ingress.tls.mode to off or manual, or ingress.tls.ca_directory_url to an authority of your own"
        found.append(f"no public authority makes a certificate for {few(private)}, so it stays plain HTTP; {mend}")
    return found


def change_lines(before: Ingress | None, after: Ingress | None, nodes: Sequence[str]) -> list[str]:
    """What would be routed, and what of it changes, as lines; none where there is no ingress."""
    if after is None:
        return [f"ingress: taken away ({few(list(before.hosts))})"] if before is not None else []
    lines = [f"ingress: {few(list(after.hosts))} on {', '.join(nodes) or 'no node'}"]
    return lines + [f"  {change}" for change in changes(before, after)]


def change_document(before: Ingress | None, after: Ingress | None, nodes: Sequence[str]) -> dict[str, Any] | None:
    """The same in JSON; None where there is no ingress and was none."""
    if after is None and before is None:
        return None
    return {
        "hosts": list(after.hosts) if after is not None else [],
        "nodes": list(nodes),
        "changes": changes(before, after),
    }


def changes(before: Ingress | None, after: Ingress | None) -> list[str]:
    """What is routed otherwise than before, in words; nothing where it is the same."""
    old, new = _facts(before), _facts(after)
    found = [f"+ {name}{_value(new[name])}" for name in new if name not in old]
    found += [f"- {name}{_value(old[name])}" for name in old if name not in new]
    return found + [f"~ {name}: {old[name]} → {new[name]}" for name in new if name in old and old[name] != new[name]]


def _facts(ingress: Ingress | None) -> dict[str, str]:
    """Everything that can change, by what it is called."""
    if ingress is None:
        return {}
    document = ingress_document(ingress)
    found = {f"host {host}": "" for host in ingress.hosts}
    found |= {f"{rule.host}{rule.path_prefix}": f"{rule.service}:{rule.port}" for rule in ingress.rules}
    found |= {f"tls.{key}": str(value) for key, value in document["tls"].items()}
    for key in ("redirect_http", "drain_timeout"):
        value = document.get(key)
        if value is not None:
            found[key] = str(value).lower()
    return found


def _value(value: str) -> str:
    return f" → {value}" if value else ""
