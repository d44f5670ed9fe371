"""``node list``: every node with its state and details."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import Heartbeat, NodeProgress, Rollout
from devopsellence.cli.ingress import cluster_summary
from devopsellence.cli.nodes import registry
from devopsellence.cli.nodes.registry import NodeOverview
from devopsellence.cli.nodes.workload import NodeWorkload, read_workload
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import iso, since
from devopsellence.store.etcd import Etcd

HEADER: Final = ("NODE", "STATE", "LABELS", "AGE", "AGENT", "DOCKER", "DISK FREE", "ADDRESS", "ENVIRONMENTS", "NOTE")
_MIB_IN_GIB: Final = 1024


class NodeState(StrEnum):
    """State of a node, worst first."""

    UNREADABLE = "unreadable"
    # No heartbeat.
    UNREACHABLE = "unreachable"
    # The heartbeat is that of an earlier machine of this name.
    REPLACED = "replaced"
    DRAINED = "drained"
    DRAINING = "draining"
    CORDONED = "cordoned"
    READY = "ready"


@dataclass(frozen=True)
class ListedNode:
    """Node in the list; ``since`` is the time of becoming unreachable, None if not known."""

    base: NodeOverview
    state: NodeState
    since: Timestamp | None = None
    # Services that stay on a drained node.
    stays: tuple[str, ...] = ()
    # Problem of the ingress on this node.
    ingress: str = ""

    @property
    def note(self) -> str:
        """Problems as text; "" if there are none."""
        clauses = [self.base.note]
        if self.state is NodeState.DRAINED and self.stays:
            clauses.append(f"{', '.join(map(safe, self.stays))} stays because of its volumes")
        node = self.base.node
        if self.state in (NodeState.UNREACHABLE, NodeState.REPLACED) and node is not None and node.cordoned:
            clauses.append("draining" if node.HasField("drain") else "cordoned")
        clauses.append(self.ingress)
        beat = self.base.heartbeat
        if beat is not None and beat.HasField("networks_left") and not beat.networks_left:
            clauses.append("no network is left for another environment")
        return "; ".join(filter(None, clauses))

    def cells(self, now: datetime) -> list[str]:
        """Return the table cells, in the order of :data:`HEADER`."""
        node, beat = self.base.node, self.base.heartbeat
        ago = since(self.since, now) if self.since is not None else ""
        return [
            safe(self.base.name),
            f"{self.state} for {ago}" if ago else self.state.value,
            ",".join(node.labels) if node and node.labels else "-",
            (since(node.registered_at, now) if node else "") or "-",
            (safe(beat.agent_version) if beat else "") or "-",
            (safe(beat.docker_version) if beat else "") or "-",
            disk_text(beat) or "-",
            (safe(node.address) if node else "") or "-",
            ", ".join(self.base.environments) or "-",
            self.note,
        ]

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        base, beat = self.base, self.base.heartbeat
        room = beat.disk if beat is not None and beat.HasField("disk") else None
        return {
            **(registry.document(base.node) if base.node else {"node": base.name}),
            "state": self.state.value,
            "unreachable_since": iso(self.since) if self.since is not None else None,
            "agent": "up" if beat else "gone",
            "agent_version": beat.agent_version if beat else "",
            "agent_started_at": iso(beat.started_at) if beat else None,
            "agent_instance": beat.instance if beat else "",
            "other_agents": [
                {"instance": agent.instance, "hostname": agent.hostname, "started_at": iso(agent.started_at)}
                for agent in (beat.others if beat else ())
            ],
            "docker_version": beat.docker_version if beat else "",
            "hostname": beat.hostname if beat else "",
            "api_address": beat.api_address if beat else "",
            "disk": {"total_mib": room.total_mib, "free_mib": room.free_mib} if room is not None else None,
            "networks_left": beat.networks_left if beat is not None and beat.HasField("networks_left") else None,
            "environments": list(base.environments),
            "stays": list(self.stays),
            "note": self.note,
        }


async def list_nodes(etcd: Etcd) -> tuple[list[ListedNode], list[UnreadableKey]]:
    """Return all nodes, sorted by name, and the unreadable keys."""
    reader = Reader(etcd)
    (overviews, problems), rollouts, ingresses = await asyncio.gather(
        registry.overview(etcd),
        reader.get_prefix(etcd.keys.rollouts_prefix, Rollout),
        cluster_summary.ingress_summaries(etcd, datetime.now(UTC)),
    )
    ingress_notes = cluster_summary.node_notes(ingresses)
    draining = [node.name for node in overviews if node.node is not None and node.node.HasField("drain")]
    workloads = dict(zip(draining, await concurrently(read_workload(etcd, name) for name in draining), strict=True))
    unreachable = unreachable_since(rollouts.values())
    shown = [
        replace(listed_node(node, workloads, unreachable), ingress=ingress_notes.get(node.name, ""))
        for node in overviews
    ]
    return shown, [*problems, *reader.problems]


def listed_node(
    base: NodeOverview, workloads: Mapping[str, NodeWorkload], unreachable: Mapping[str, Timestamp]
) -> ListedNode:
    """Return the list entry of a node; ``workloads`` has the workload of draining nodes. Pure."""
    workload = workloads.get(base.name)
    state = state_of(base, workload)
    stays = (
        tuple(dict.fromkeys(service.service for service in workload.running))
        if workload is not None and workload.drained
        else ()
    )
    return ListedNode(base, state, unreachable.get(base.name) if state is NodeState.UNREACHABLE else None, stays)


def state_of(base: NodeOverview, workload: NodeWorkload | None) -> NodeState:
    """Return the state of a node; ``workload`` is needed for draining nodes. Pure."""
    node = base.node
    if node is None:
        return NodeState.UNREADABLE
    if base.heartbeat is None:
        return NodeState.UNREACHABLE
    if base.heartbeat.uid != node.uid:
        return NodeState.REPLACED
    if base.heartbeat.without_engine:
        return NodeState.UNREACHABLE
    if node.HasField("drain"):
        return NodeState.DRAINED if workload is not None and workload.drained else NodeState.DRAINING
    return NodeState.CORDONED if node.cordoned else NodeState.READY


def unreachable_since(rollouts: Iterable[Rollout]) -> dict[str, Timestamp]:
    """Return the time since which nodes are unreachable, by name, as recorded by the controller in any rollout."""
    since_by_node: dict[str, Timestamp] = {}
    for rollout in rollouts:
        for progress in rollout.nodes:
            if progress.phase != NodeProgress.UNREACHABLE or not progress.HasField("since"):
                continue
            known = since_by_node.get(progress.node)
            if known is None or progress.since.ToNanoseconds() < known.ToNanoseconds():
                since_by_node[progress.node] = progress.since
    return since_by_node


def disk_text(beat: Heartbeat | None) -> str:
    """Return free and total disk space, as ``12 of 50 GiB``; "" if not known."""
    if beat is None or not beat.HasField("disk"):
        return ""
    free, total = (mib / _MIB_IN_GIB for mib in (beat.disk.free_mib, beat.disk.total_mib))
    return f"{free:.0f} of {total:.0f} GiB" if total >= 10 else f"{free:.1f} of {total:.1f} GiB"
