"""Preview of a drain: services that leave the node, stay on it, or would run nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Assignment, Environment, Heartbeat, Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.nodes.moves import removed_data
from devopsellence.cli.nodes.workload import NodeWorkload, read_workload
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.untrusted import safe
from devopsellence.placement import why_not
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class OtherNode:
    """Another node of the environment; ``runs`` are its assigned services."""

    node: Node
    reachable: bool
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DrainedService:
    """Service on a node to be drained; ``stays``: the service keeps running on the node because of its volumes.

    ``elsewhere`` are the nodes that run the service already or can take it, ``why_nowhere`` is the reason if there are
    none.
    """

    environment: EnvironmentRef
    service: str
    volumes: tuple[str, ...]
    stays: bool
    elsewhere: tuple[str, ...] = ()
    why_nowhere: str = ""
    #: Those of ``volumes`` that only the image declares: they are removed when the service leaves.
    removed_volumes: tuple[str, ...] = ()

    @property
    def nowhere(self) -> bool:
        """True if the service would run on no node after the drain."""
        return not self.stays and not self.elsewhere

    def text(self, node: str) -> str:
        """Return a sentence about the service."""
        message = f"{self.environment}: {safe(self.service)}"
        data = ", ".join(map(safe, self.volumes))
        if self.stays:
            return f"{message} stays on {node} with its data ({data}); --move-volumes moves it without the data"
        behind = ", ".join(safe(volume) for volume in self.volumes if volume not in self.removed_volumes)
        behind = f"; its data ({behind}) stays behind on {node}" if behind else ""
        behind += removed_data(self.removed_volumes)
        if not self.elsewhere:
            return f"{message} would run nowhere: {self.why_nowhere}{behind}"
        return f"{message} leaves {node} (runs on or moves to {', '.join(self.elsewhere)}){behind}"

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "environment": str(self.environment),
            "service": self.service,
            "volumes": list(self.volumes),
            "removed_volumes": [] if self.stays else list(self.removed_volumes),
            "stays": self.stays,
            "elsewhere": list(self.elsewhere),
            "nowhere": self.nowhere,
        }


@dataclass(frozen=True)
class ForwardedIngress:
    """Ingress of an environment on a node to be drained, which goes on until the node is removed.

    ``nodes``: those that requests for ``hosts`` are forwarded to.
    """

    environment: EnvironmentRef
    hosts: tuple[str, ...]
    nodes: tuple[str, ...]

    def text(self, node: str) -> str:
        """Return a sentence about the ingress."""
        hosts = ", ".join(map(safe, self.hosts))
        if not self.nodes:
            return f"{self.environment}: {node} has no node to forward requests for {hosts} to"
        forwards = f"{node} forwards requests for {hosts} to {', '.join(self.nodes)}"
        return f"{self.environment}: {forwards} until it is removed; point DNS elsewhere before that"

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"environment": str(self.environment), "hosts": list(self.hosts), "nodes": list(self.nodes)}


@dataclass(frozen=True)
class DrainPreview:
    """Workload of the node, the services that leave or stay, what is forwarded then, and the unreadable records."""

    workload: NodeWorkload
    services: tuple[DrainedService, ...]
    problems: tuple[UnreadableKey, ...]
    forwarded: tuple[ForwardedIngress, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Return a sentence about each service, and about each ingress that is forwarded."""
        name = self.workload.name
        services = [service.text(name) for service in self.services]
        return services + [ingress.text(name) for ingress in self.forwarded]


async def preview_drain(etcd: Etcd, name: str, *, move_volumes: bool) -> DrainPreview:
    """Return the preview of draining the node. Writes nothing."""
    workload = await read_workload(etcd, name)
    reader, keys = Reader(etcd), etcd.keys
    nodes, beats, environments = await asyncio.gather(
        reader.get_prefix(keys.nodes_prefix, Node),
        reader.get_prefix(keys.heartbeats_prefix, Heartbeat),
        reader.get_many({str(ref): keys.environment(ref) for ref in workload.assignments}, Environment),
    )
    services: list[DrainedService] = []
    forwarded: list[ForwardedIngress] = []
    for ref, assignment in sorted(workload.assignments.items()):
        if assignment.removed:
            continue
        attached = environments[str(ref)].nodes if str(ref) in environments else ()
        names = [other for other in attached if other != name and keys.node(other) in nodes]
        assignments = await reader.get_many({other: keys.assignment(other, ref) for other in names}, Assignment)
        others = [
            _other(nodes[keys.node(other)], beats.get(keys.heartbeat(other)), assignments.get(other)) for other in names
        ]
        of_environment = drained_services(ref, assignment.services, others, move_volumes=move_volumes)
        services += of_environment
        forwarded += forwarded_ingress(ref, assignment, of_environment, others)
    problems = (*workload.problems, *reader.problems)
    return DrainPreview(workload, tuple(services), problems, tuple(forwarded))


def drained_services(
    environment: EnvironmentRef, services: Sequence[Service], others: Sequence[OtherNode], *, move_volumes: bool
) -> list[DrainedService]:
    """Return the effect of a drain on ``services`` of a node, in the same order. Pure."""
    drained = []
    for service in services:
        volumes = tuple(volume.source for volume in service.volumes)
        if volumes and not move_volumes:
            drained.append(DrainedService(environment, service.name, volumes, stays=True))
            continue
        refusals = {other.node.name: _why_not(service, other) for other in others}
        elsewhere = tuple(name for name, why in refusals.items() if not why)
        why = "; ".join(f"{name} is {reason}" for name, reason in refusals.items()) or "no other node is attached"
        removed = tuple(volume.source for volume in service.volumes if volume.from_image)
        nowhere = "" if elsewhere else why
        drained.append(DrainedService(environment, service.name, volumes, False, elsewhere, nowhere, removed))
    return drained


def forwarded_ingress(
    environment: EnvironmentRef, assignment: Assignment, drained: Sequence[DrainedService], others: Sequence[OtherNode]
) -> Iterator[ForwardedIngress]:
    """Yield the ingress that a drained node forwards: none if the services of its rules stay. Pure."""
    targets = {rule.service for rule in assignment.ingress.rules}
    if not any(service.service in targets and not service.stays for service in drained):
        return
    services = [service for service in assignment.services if service.name in targets]
    nodes = [other.node.name for other in others if not any(_why_not(service, other) for service in services)]
    yield ForwardedIngress(environment, tuple(assignment.ingress.hosts), tuple(nodes))


def refusal(preview: DrainPreview, anyway: str) -> CliError | None:
    """Return the error about services that would run nowhere, else None. ``anyway`` is the command to drain anyway."""
    lost = [service for service in preview.services if service.nowhere]
    if not lost:
        return None
    findings = [Finding("node_drain_unplaced", service.text(preview.workload.name)) for service in lost]
    names = ", ".join(sorted({safe(service.service) for service in lost}))
    actions = [
        NextAction("attach another node", "devopsellence node attach <node>"),
        NextAction("or drain anyway", anyway),
    ]
    message = f"{names} would run nowhere after draining node {preview.workload.name}"
    return CliError("node_drain_unplaced", message, findings=findings, next_actions=actions)


def _other(node: Node, beat: Heartbeat | None, assignment: Assignment | None) -> OtherNode:
    runs = assignment.services if assignment is not None and not assignment.removed else ()
    reachable = beat is not None and beat.uid == node.uid and not beat.without_engine
    return OtherNode(node, reachable, frozenset(service.name for service in runs))


def _why_not(service: Service, other: OtherNode) -> str:
    """Return the reason why the node cannot run the service, as a clause about the node; "" if it can."""
    if not other.reachable:
        return "not reachable"
    if other.node.HasField("drain"):
        return "being drained"
    # A cordoned node keeps its services.
    return "" if service.name in other.runs else why_not(service, other.node)
