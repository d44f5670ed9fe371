"""``node list``: every node, the state that it is in, and since when."""

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
from devopsellence.cli.util.text import iso, safe, since
from devopsellence.store.etcd import Etcd

HEADER: Final = ("NODE", "STATE", "LABELS", "AGE", "AGENT", "DOCKER", "DISK FREE", "ADDRESS", "ENVIRONMENTS", "NOTE")
_MIB_IN_GIB: Final = 1024


class NodeState(StrEnum):
    """What matters most about a node, the worst first."""

    UNREADABLE = "unreadable"
    # Its agent gives no sign of life.
    UNREACHABLE = "unreachable"
    # The agent that answers is that of the machine which had the name before.
    REPLACED = "replaced"
    DRAINED = "drained"
    DRAINING = "draining"
    CORDONED = "cordoned"
    READY = "ready"


@dataclass(frozen=True)
class ListedNode:
    """A node in the list. ``since``: when it became unreachable; None where that is not known."""

    base: NodeOverview
    state: NodeState
    since: Timestamp | None = None
    # What stays on a drained node.
    stays: tuple[str, ...] = ()
    # What is wrong with the ingress there.
    ingress: str = ""

    @property
    def note(self) -> str:
        """What is not as it should be; "" when all is."""
        said = [self.base.note]
        if self.state is NodeState.DRAINED and self.stays:
            said.append(f"{', '.join(map(safe, self.stays))} stays, for its volumes")
        node = self.base.node
        if self.state in (NodeState.UNREACHABLE, NodeState.REPLACED) and node is not None and node.cordoned:
            said.append("to be drained" if node.HasField("drain") else "cordoned")
        said.append(self.ingress)
        return "; ".join(filter(None, said))

    def cells(self, now: datetime) -> list[str]:
        """Its row, as :data:`HEADER` has it."""
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
        """The shape that it has in JSON."""
        base, beat = self.base, self.base.heartbeat
        room = beat.disk if beat is not None and beat.HasField("disk") else None
        return {
            **(registry.document(base.node) if base.node else {"node": base.name}),
            "state": self.state.value,
            "unreachable_since": iso(self.since) if self.since is not None else None,
            "agent": "up" if beat else "gone",
            "agent_version": beat.agent_version if beat else "",
            "agent_started_at": iso(beat.started_at) if beat else None,
            "docker_version": beat.docker_version if beat else "",
            "hostname": beat.hostname if beat else "",
            "api_address": beat.api_address if beat else "",
            "disk": {"total_mib": room.total_mib, "free_mib": room.free_mib} if room is not None else None,
            "environments": list(base.environments),
            "stays": list(self.stays),
            "note": self.note,
        }


async def list_nodes(etcd: Etcd) -> tuple[list[ListedNode], list[UnreadableKey]]:
    """All nodes, sorted by name, and the keys that could not be read."""
    reader = Reader(etcd)
    (found, problems), rollouts, ingresses = await asyncio.gather(
        registry.overview(etcd),
        reader.get_prefix(etcd.keys.rollouts_prefix, Rollout),
        cluster_summary.ingress_summaries(etcd, datetime.now(UTC)),
    )
    routed = cluster_summary.node_notes(ingresses)
    draining = [each.name for each in found if each.node is not None and each.node.HasField("drain")]
    looks = dict(zip(draining, await concurrently(read_workload(etcd, name) for name in draining), strict=True))
    silent = unreachable_since(rollouts.values())
    shown = [replace(listed_node(each, looks, silent), ingress=routed.get(each.name, "")) for each in found]
    return shown, [*problems, *reader.problems]


def listed_node(base: NodeOverview, looks: Mapping[str, NodeWorkload], silent: Mapping[str, Timestamp]) -> ListedNode:
    """A node as it is listed; ``looks`` are at those that are being drained. Pure."""
    seen = looks.get(base.name)
    state = state_of(base, seen)
    stays = tuple(dict.fromkeys(each.service for each in seen.running)) if seen is not None and seen.drained else ()
    return ListedNode(base, state, silent.get(base.name) if state is NodeState.UNREACHABLE else None, stays)


def state_of(base: NodeOverview, seen: NodeWorkload | None) -> NodeState:
    """The word for a node; ``seen`` is what it runs, where it is being drained. Pure."""
    node = base.node
    if node is None:
        return NodeState.UNREADABLE
    if base.heartbeat is None:
        return NodeState.UNREACHABLE
    if base.heartbeat.uid != node.uid:
        return NodeState.REPLACED
    if node.HasField("drain"):
        return NodeState.DRAINED if seen is not None and seen.drained else NodeState.DRAINING
    return NodeState.CORDONED if node.cordoned else NodeState.READY


def unreachable_since(rollouts: Iterable[Rollout]) -> dict[str, Timestamp]:
    """Since when nodes have been unreachable, as far as a controller has noted it for one of their environments."""
    found: dict[str, Timestamp] = {}
    for rollout in rollouts:
        for progress in rollout.nodes:
            if progress.phase != NodeProgress.UNREACHABLE or not progress.HasField("since"):
                continue
            known = found.get(progress.node)
            if known is None or progress.since.ToNanoseconds() < known.ToNanoseconds():
                found[progress.node] = progress.since
    return found


def disk_text(beat: Heartbeat | None) -> str:
    """``12 of 50 GiB``; "" where it is not known."""
    if beat is None or not beat.HasField("disk"):
        return ""
    free, total = (mib / _MIB_IN_GIB for mib in (beat.disk.free_mib, beat.disk.total_mib))
    return f"{free:.0f} of {total:.0f} GiB" if total >= 10 else f"{free:.1f} of {total:.1f} GiB"
