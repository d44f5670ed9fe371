"""Services that start or stop because of a change of a node's labels. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.deploy.replicas import CurrentCopies
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import plural
from devopsellence.placement import Placement, may_run, why_not
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class ServiceMove:
    """Start or stop of a service on a node; ``elsewhere`` are the environment's other nodes that will run the service.

    ``replicas`` is the configured number, 0 for a service on every suitable node.
    """

    environment: EnvironmentRef
    service: str
    node: str
    starts: bool
    why: str
    elsewhere: tuple[str, ...]
    volumes: tuple[str, ...]
    replicas: int = 0
    #: Those of ``volumes`` that only the image declares: they are removed where the service stops.
    removed_volumes: tuple[str, ...] = ()

    @property
    def nowhere(self) -> bool:
        """True if the service would run on no node after the change."""
        return not self.starts and not self.elsewhere

    def text(self) -> str:
        """Return a sentence about the move."""
        where = f"{self.environment}: {safe(self.service)}"
        also = f"also on {', '.join(self.elsewhere)}" if self.elsewhere else "nowhere else"
        if self.replicas:
            count = len(self.elsewhere) + self.starts
            also += f", {count} of {plural(self.replicas, 'replica')}"
        if self.starts:
            return f"{where} starts on {self.node} ({also})"
        stay = [volume for volume in self.volumes if volume not in self.removed_volumes]
        volumes = f"; its volumes ({', '.join(map(safe, stay))}) stay on {self.node}" if stay else ""
        volumes += removed_data(self.removed_volumes)
        return f"{where} stops on {self.node}, which is {self.why} ({also}){volumes}"

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "environment": str(self.environment),
            "service": self.service,
            "node": self.node,
            "change": "starts" if self.starts else "stops",
            "elsewhere": list(self.elsewhere),
            "volumes": list(self.volumes),
            "removed_volumes": [] if self.starts else list(self.removed_volumes),
            "nowhere": self.nowhere,
        }


def removed_data(volumes: Sequence[str]) -> str:
    """Return a clause about volumes that are removed with their service, because only its image declares them."""
    if not volumes:
        return ""
    return f"; its data in volumes of its image ({', '.join(map(safe, volumes))}) is removed"


def service_moves(
    environment: EnvironmentRef,
    services: Sequence[Service],
    before: Node,
    after: Node,
    others: Sequence[Node],
    current: CurrentCopies,
) -> list[ServiceMove]:
    """Return the moves of ``services`` when the node record ``before`` becomes ``after``, in the order of ``services``.

    ``others`` are the environment's other nodes, ``current`` are their copies. A cordoned node keeps its services
    and takes no new ones, so nothing moves to or from a cordoned node. Replicas that leave the node start on other
    nodes.
    """
    if after.cordoned:
        return []
    now, then = current.place(services, [before, *others]), current.place(services, [after, *others])
    moves = []
    for service in services:
        if service.replicas:
            moves += _of_replicas(environment, service, after, now, then)
        elif (starts := may_run(service, after)) != may_run(service, before):
            elsewhere = tuple(node.name for node in others if may_run(service, _uncordoned(node)))
            moves.append(_move(environment, service, after.name, starts, why_not(service, after), elsewhere))
    return moves


def _of_replicas(
    environment: EnvironmentRef, service: Service, after: Node, now: Placement, then: Placement
) -> list[ServiceMove]:
    before, left = set(now.replica_placements[service.name].nodes), set(then.replica_placements[service.name].nodes)
    return [
        _move(
            environment,
            service,
            name,
            name in left,
            (why_not(service, after) if name == after.name else "") or "one too many",
            tuple(sorted(left - {name})),
        )
        for name in sorted(before ^ left, key=lambda name: (name != after.name, name))
    ]


def _move(
    environment: EnvironmentRef, service: Service, node: str, starts: bool, why: str, elsewhere: tuple[str, ...]
) -> ServiceMove:
    return ServiceMove(
        environment=environment,
        service=service.name,
        node=node,
        starts=starts,
        why=why,
        elsewhere=elsewhere,
        volumes=tuple(volume.source for volume in service.volumes),
        replicas=service.replicas,
        removed_volumes=tuple(volume.source for volume in service.volumes if volume.from_image),
    )


def _uncordoned(node: Node) -> Node:
    copy = Node()
    copy.CopyFrom(node)
    copy.cordoned = False
    return copy
