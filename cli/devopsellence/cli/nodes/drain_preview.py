"""What emptying a node would do: which services leave it, which stay, and which would run nowhere then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Assignment, Environment, Heartbeat, Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.nodes.workload import NodeWorkload, read_workload
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.util.text import safe
from devopsellence.placement import why_not
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class OtherNode:
    """Another node of the environment; ``runs`` are the services that it is assigned."""

    node: Node
    reachable: bool
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DrainedService:
    """A service that the node runs. ``stays``: it keeps running there, for its volumes.

    ``elsewhere`` are the nodes that run it already or may take it, ``why_nowhere`` says why there is none.
    """

    environment: EnvironmentRef
    service: str
    volumes: tuple[str, ...]
    stays: bool
    elsewhere: tuple[str, ...] = ()
    why_nowhere: str = ""

    @property
    def nowhere(self) -> bool:
        """It runs now, and would run nowhere then."""
        return not self.stays and not self.elsewhere

    def text(self, node: str) -> str:
        """In a sentence."""
        what = f"{self.environment}: {safe(self.service)}"
        data = ", ".join(map(safe, self.volumes))
        if self.stays:
            return f"{what} stays on {node}, where its data is ({data}); --move-volumes moves it without its data"
        behind = f"; its data ({data}) stays behind on {node}" if self.volumes else ""
        if not self.elsewhere:
            return f"{what} would run nowhere: {self.why_nowhere}{behind}"
        return f"{what} leaves {node} (runs on, or moves to, {', '.join(self.elsewhere)}){behind}"

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return {
            "environment": str(self.environment),
            "service": self.service,
            "volumes": list(self.volumes),
            "stays": self.stays,
            "elsewhere": list(self.elsewhere),
            "nowhere": self.nowhere,
        }


@dataclass(frozen=True)
class DrainPreview:
    """The node as it is, what of it leaves or stays, and the records that could not be read for this."""

    workload: NodeWorkload
    services: tuple[DrainedService, ...]
    problems: tuple[UnreadableKey, ...]


async def preview_drain(etcd: Etcd, name: str, *, move_volumes: bool) -> DrainPreview:
    """What draining the node would do. Writes nothing."""
    seen = await read_workload(etcd, name)
    reader, keys = Reader(etcd), etcd.keys
    nodes, beats, environments = await asyncio.gather(
        reader.get_prefix(keys.nodes_prefix, Node),
        reader.get_prefix(keys.heartbeats_prefix, Heartbeat),
        reader.get_many({str(ref): keys.environment(ref) for ref in seen.assignments}, Environment),
    )
    found: list[DrainedService] = []
    for ref, assignment in sorted(seen.assignments.items()):
        if assignment.removed:
            continue
        attached = environments[str(ref)].nodes if str(ref) in environments else ()
        names = [each for each in attached if each != name and keys.node(each) in nodes]
        theirs = await reader.get_many({each: keys.assignment(each, ref) for each in names}, Assignment)
        others = [_other(nodes[keys.node(each)], beats.get(keys.heartbeat(each)), theirs.get(each)) for each in names]
        found += drained_services(ref, assignment.services, others, move_volumes=move_volumes)
    return DrainPreview(seen, tuple(found), (*seen.problems, *reader.problems))


def drained_services(
    environment: EnvironmentRef, services: Sequence[Service], others: Sequence[OtherNode], *, move_volumes: bool
) -> list[DrainedService]:
    """What becomes of the ``services`` that a node runs once it is drained, in the order given. Pure."""
    found = []
    for service in services:
        volumes = tuple(volume.source for volume in service.volumes)
        if volumes and not move_volumes:
            found.append(DrainedService(environment, service.name, volumes, stays=True))
            continue
        refusals = {other.node.name: _why_not(service, other) for other in others}
        elsewhere = tuple(name for name, why in refusals.items() if not why)
        why = "; ".join(f"{name} is {reason}" for name, reason in refusals.items()) or "no other node is attached"
        found.append(DrainedService(environment, service.name, volumes, False, elsewhere, "" if elsewhere else why))
    return found


def refusal(shown: DrainPreview, anyway: str) -> CliError | None:
    """The error for what would run nowhere; None when there is nothing. ``anyway`` does it nevertheless."""
    lost = [each for each in shown.services if each.nowhere]
    if not lost:
        return None
    findings = [Finding("node_drain_unplaced", each.text(shown.workload.name)) for each in lost]
    names = ", ".join(sorted({safe(each.service) for each in lost}))
    actions = [
        NextAction("let another node run it", "devopsellence node attach <node>"),
        NextAction("or do it all the same", anyway),
    ]
    message = f"{names} would run nowhere if node {shown.workload.name} ran nothing"
    return CliError("node_drain_unplaced", message, findings=findings, next_actions=actions)


def _other(node: Node, beat: Heartbeat | None, assignment: Assignment | None) -> OtherNode:
    runs = assignment.services if assignment is not None and not assignment.removed else ()
    return OtherNode(node, beat is not None and beat.uid == node.uid, frozenset(service.name for service in runs))


def _why_not(service: Service, other: OtherNode) -> str:
    """Why the service cannot be counted on there, as a clause about the node; "" when it can."""
    if not other.reachable:
        return "not reachable"
    if other.node.HasField("drain"):
        return "being drained"
    # Cordoned, it keeps what it has.
    return "" if service.name in other.runs else why_not(service, other.node)
