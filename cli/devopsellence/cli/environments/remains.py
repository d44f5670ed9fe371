"""Remains of an environment on nodes, and waiting until agents and controller have removed them.

A node that is detached gets a tombstone; its agent stops and removes the containers, which takes up to their grace
periods, and reports it; then the controller deletes tombstone, status and ingress parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, ServiceStatus
from devopsellence.cli.nodes.drain import stuck_reason
from devopsellence.cli.nodes.workload import read_workload
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store.informer_group import InformerGroup
from devopsellence.cli.store.reader import MAX_SINGLE_READS
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import age, few, plural
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.record import message_of

#: Time limit of the first read, in seconds.
_FIRST: Final = 10.0
# Nodes that the message after a timeout explains.
_MAX_EXPLAINED: Final = 5


@dataclass(frozen=True)
class Remains:
    """Nodes with keys of an environment, and the services that still have containers there, by node.

    ``stopping``: those of the services whose containers have had SIGTERM.
    """

    nodes: frozenset[str] = frozenset()
    services: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stopping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def document(self) -> list[dict[str, Any]]:
        """Return the JSON form: services per node."""
        return [
            {
                "node": node,
                "services": list(self.services.get(node, ())),
                "stopping": list(self.stopping.get(node, ())),
            }
            for node in sorted(self.nodes)
        ]


def remains_of(
    assigned: Iterable[str], statuses: Mapping[str, AssignmentStatus | None], parts: Iterable[str]
) -> Remains:
    """Return the remains by the nodes with an assignment, a status (None: unreadable), an ingress part. Pure."""
    services, stopping = {}, {}
    for node, status in statuses.items():
        if status is None or status.phase == AssignmentStatus.REMOVED:
            continue
        if names := tuple(sorted(service.name for service in status.services)):
            services[node] = names
        if ending := tuple(sorted(service.name for service in status.services if _stops(service))):
            stopping[node] = ending
    return Remains(frozenset({*assigned, *statuses, *parts}), services, stopping)


def _stops(service: ServiceStatus) -> bool:
    return bool(service.stopping) or service.phase == ServiceStatus.STOPPING


def changes(before: Remains, after: Remains) -> list[str]:
    """Return a sentence for all that has begun to stop on a node, or has left it, since ``before``. Pure."""
    sentences = []
    for node in sorted(before.nodes | after.nodes):
        left = after.services.get(node, ())
        begun = [name for name in after.stopping.get(node, ()) if name not in before.stopping.get(node, ())]
        gone = [name for name in before.services.get(node, ()) if name not in left]
        if begun:
            sentences.append(f"{node} stops {_names(begun)}, which takes up to the grace period (stop_grace_period)")
        if gone:
            rest = f"; {plural(len(left), 'service')} left" if left else ""
            sentences.append(f"{node} has removed {_names(gone)}{rest}")
        if node in before.nodes - after.nodes:
            sentences.append(f"{node} runs nothing of the environment any more; its volumes stay")
    return sentences


def _names(names: list[str]) -> str:
    return few([safe(name) for name in names])


async def services_on(etcd: Etcd, ref: EnvironmentRef, node: str) -> tuple[str, ...] | None:
    """Return the services of ``ref`` that are assigned to ``node`` or run there; None if there is no key of both."""
    workload = await read_workload(etcd, node)
    if ref not in workload.assignments and ref not in workload.statuses:
        return None
    return tuple(service.service for service in workload.running if service.environment == ref)


async def wait_removed(
    etcd: Etcd, ref: EnvironmentRef, nodes: Iterable[str], tell: Callable[[str, Remains], None], seconds: float
) -> None:
    """Wait until nothing of ``ref`` is left on ``nodes``; ``tell`` gets each change, with what is left.

    Raises:
        CliError: ``node_detach_timeout``: something is left after ``seconds``.
        Unavailable: etcd did not answer at the beginning; later losses of the connection are waited out.
    """
    watch = _Watch(etcd, ref, frozenset(nodes))
    before = Remains()
    try:
        await watch.informers.synced(_FIRST)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    left = watch.remains()
                    for sentence in changes(before, left):
                        tell(sentence, left)
                    if not left.nodes:
                        return
                    before = left
                    await watch.informers.changed()
        except TimeoutError:
            raise await _unfinished(etcd, ref, watch.remains(), seconds) from None
    finally:
        await watch.informers.end()


async def _unfinished(etcd: Etcd, ref: EnvironmentRef, left: Remains, seconds: float) -> CliError:
    findings = []
    for node in sorted(left.nodes)[:_MAX_EXPLAINED]:
        stuck = stuck_reason(await read_workload(etcd, node))
        services = f"still has {', '.join(map(safe, left.services.get(node, ())))}" if node in left.services else ""
        findings.append(Finding("node_in_use", f"{node}: {stuck or services or 'has not reported the removal yet'}"))
    actions = [
        NextAction("see the nodes", "devopsellence node list"),
        NextAction("or, if a machine is lost for good", "devopsellence node remove NODE --force"),
    ]
    message = f"not everything of {ref} is removed from {few(sorted(left.nodes))} after {age(seconds)}; it continues"
    return CliError("node_detach_timeout", message, findings=findings, next_actions=actions)


class _Watch:
    """Informers on the keys of one environment on some nodes; beyond a few nodes, on the keys of all."""

    def __init__(self, etcd: Etcd, ref: EnvironmentRef, nodes: frozenset[str]) -> None:
        keys, few_nodes = etcd.keys, len(nodes) <= MAX_SINGLE_READS
        self._keys = keys
        self._ref = ref
        self._nodes = nodes
        self.informers = InformerGroup(etcd)
        add, each = self.informers.add, sorted(nodes)
        # Assignments and ingress parts are watched for their existence alone.
        self._assignments = [
            add(key, Empty)
            for key in ([keys.assignment(node, ref) for node in each] if few_nodes else [keys.all_assignments_prefix])
        ]
        self._statuses = [
            add(key, AssignmentStatus)
            for key in ([keys.status(node, ref) for node in each] if few_nodes else [keys.all_statuses_prefix])
        ]
        self._parts = [
            add(key, Empty)
            for key in (
                [f"{keys.ingress_prefix(node)}{ref}/" for node in each] if few_nodes else [keys.all_ingress_prefix]
            )
        ]

    def remains(self) -> Remains:
        statuses = {
            node: message_of(record)
            for informer in self._statuses
            for key, record in informer.records.items()
            if (node := node_of(self._keys, key, self._ref)) in self._nodes
        }
        return remains_of(self._named(self._assignments), statuses, self._named(self._parts))

    def _named(self, informers: list[Informer[Empty]]) -> list[str]:
        keys = [key for informer in informers for key in informer.records]
        return [node for key in keys if (node := node_of(self._keys, key, self._ref)) in self._nodes]


def node_of(keys: Keys, key: str, ref: EnvironmentRef) -> str:
    """Return the node of an assignment, a status or an ingress part of ``ref``; "" for any other key. Pure."""
    with suppress(ValueError):
        node, of = keys.parse_assignment(key)
        return node if of == ref else ""
    with suppress(ValueError):
        node, of, _ = keys.parse_ingress(key)
        return node if of == ref else ""
    return ""
