"""Workload of a node: services assigned to the node or reported by its agent. Pure except :func:`read_workload`."""

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
    """Service on a node, assigned or still running; ``volumes`` are the volumes with data on the node."""

    environment: EnvironmentRef
    service: str
    volumes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.environment}: {self.service}"


@dataclass(frozen=True)
class NodeWorkload:
    """Records about a node; None for absent and unreadable records.

    ``controllers`` is the number of running controllers; ``problems`` are the unreadable keys.
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
        """True if there is a heartbeat with the uid of the node."""
        return self.heartbeat is not None and self.node is not None and self.heartbeat.uid == self.node.uid

    @property
    def empty(self) -> bool:
        """True if nothing is assigned to or reported by the node, and every record is readable."""
        return not (self.assignments or self.statuses or self.problems)

    @property
    def running(self) -> list[NodeService]:
        """Services assigned to or running on the node, sorted."""
        uid = self.node.uid if self.node is not None else ""
        services: dict[tuple[EnvironmentRef, str], NodeService] = {}
        for ref, status in self.statuses.items():
            gone = status.phase == AssignmentStatus.REMOVED or status.node_uid != uid
            for service in () if gone else status.services:
                services[ref, service.name] = NodeService(ref, service.name)
        for ref, assignment in self.assignments.items():
            for assigned in () if assignment.removed else assignment.services:
                volumes = tuple(volume.source for volume in assigned.volumes)
                services[ref, assigned.name] = NodeService(ref, assigned.name, volumes)
        return sorted(services.values())

    @property
    def leaving(self) -> list[NodeService]:
        """Services still to leave a draining node; an empty list for any other node."""
        if self.node is None or not self.node.HasField("drain"):
            return []
        volumes = self.node.drain.volumes
        return [service for service in self.running if volumes or not service.volumes]

    @property
    def drained(self) -> bool:
        """True if only services with volumes are left on a draining node."""
        draining = self.node is not None and self.node.HasField("drain")
        return draining and not self.leaving and not self.problems


async def read_workload(etcd: Etcd, name: str) -> NodeWorkload:
    """Read all records about a node."""
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
    """Return records stored under a node's assignments or statuses, by environment; other keys are left out."""
    return _parsed(records, lambda key: keys.parse_assignment(key)[1])


def _parsed(records: Mapping[str, M], parse: Callable[[str], EnvironmentRef]) -> dict[EnvironmentRef, M]:
    by_ref = {}
    for key, record in records.items():
        with suppress(ValueError):
            by_ref[parse(key)] = record
    return by_ref
