"""What one node runs: assigned to it, or reported by it. Pure, but for :func:`look`, which reads it once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, Candidate, Heartbeat, Node
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef, Keys

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, order=True)
class NodeService:
    """A service that the node has not got rid of; ``volumes`` are those whose data it keeps there."""

    environment: EnvironmentRef
    service: str
    volumes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.environment}: {self.service}"


@dataclass(frozen=True)
class NodeWorkload:
    """All that is stored about one node at a moment; None: there is no such record, or it cannot be read.

    ``controllers`` is how many there are. ``problems``: what cannot be read.
    """

    name: str
    node: Node | None = None
    heartbeat: Heartbeat | None = None
    assignments: Mapping[EnvironmentRef, Assignment] = field(default_factory=dict)
    statuses: Mapping[EnvironmentRef, AssignmentStatus] = field(default_factory=dict)
    controllers: int = 0
    problems: tuple[UnreadableKey, ...] = ()

    @property
    def reachable(self) -> bool:
        """Whether the agent of the machine that is registered is there."""
        return self.heartbeat is not None and self.node is not None and self.heartbeat.uid == self.node.uid

    @property
    def empty(self) -> bool:
        """Whether nothing is left of it: neither assigned nor reported, and not because it cannot be read."""
        return not (self.assignments or self.statuses or self.problems)

    @property
    def running(self) -> list[NodeService]:
        """What it runs, or is about to, sorted."""
        uid = self.node.uid if self.node is not None else ""
        found: dict[tuple[EnvironmentRef, str], NodeService] = {}
        for ref, status in self.statuses.items():
            gone = status.phase == AssignmentStatus.REMOVED or status.node_uid != uid
            for service in () if gone else status.services:
                found[ref, service.name] = NodeService(ref, service.name)
        for ref, assignment in self.assignments.items():
            for wanted in () if assignment.removed else assignment.services:
                volumes = tuple(volume.source for volume in wanted.volumes)
                found[ref, wanted.name] = NodeService(ref, wanted.name, volumes)
        return sorted(found.values())

    @property
    def leaving(self) -> list[NodeService]:
        """What of :attr:`running` is to go from a node that is being drained; nothing where it is not."""
        if self.node is None or not self.node.HasField("drain"):
            return []
        volumes = self.node.drain.volumes
        return [each for each in self.running if volumes or not each.volumes]

    @property
    def drained(self) -> bool:
        """Whether it runs nothing any more, but for what stays for its volumes."""
        draining = self.node is not None and self.node.HasField("drain")
        return draining and not self.leaving and not self.problems


async def read_workload(etcd: Etcd, name: str) -> NodeWorkload:
    """Read all of it once."""
    reader, keys = Reader(etcd), etcd.keys
    node, heartbeat, assignments, statuses, candidates = await asyncio.gather(
        reader.get(keys.node(name), Node),
        reader.get(keys.heartbeat(name), Heartbeat),
        reader.get_prefix(keys.assignments_prefix(name), Assignment),
        reader.get_prefix(keys.statuses_prefix(name), AssignmentStatus),
        reader.get_prefix(keys.election_prefix, Candidate),
    )
    return NodeWorkload(
        name=name,
        node=node,
        heartbeat=heartbeat,
        assignments=by_environment(keys, assignments),
        statuses=by_environment(keys, statuses),
        controllers=len(candidates),
        problems=tuple(reader.problems),
    )


def by_environment(keys: Keys, records: Mapping[str, M]) -> dict[EnvironmentRef, M]:
    """Records under a node's assignments or statuses by environment; keys that name none are left out."""
    return _parsed(records, lambda key: keys.parse_assignment(key)[1])


def _parsed(records: Mapping[str, M], parse: Callable[[str], EnvironmentRef]) -> dict[EnvironmentRef, M]:
    found = {}
    for key, record in records.items():
        with suppress(ValueError):
            found[parse(key)] = record
    return found
