"""What a change of a node moves: which services start and stop where, and which would run nowhere then. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.util.text import plural, safe
from devopsellence.placement import Held, Layout, layout, places, why_not
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class ServiceMove:
    """A service that starts or stops on a node; ``elsewhere`` are the environment's other nodes that run it then.

    ``replicas`` is how many of them it is to have; 0: it runs on every node that may run it.
    """

    environment: EnvironmentRef
    service: str
    node: str
    starts: bool
    why: str
    elsewhere: tuple[str, ...]
    volumes: tuple[str, ...]
    replicas: int = 0

    @property
    def nowhere(self) -> bool:
        """It runs now, and would run nowhere then."""
        return not self.starts and not self.elsewhere

    def text(self) -> str:
        """In a sentence."""
        where = f"{self.environment}: {safe(self.service)}"
        also = f"also on {', '.join(self.elsewhere)}" if self.elsewhere else "nowhere else"
        if self.replicas:
            count = len(self.elsewhere) + self.starts
            also += f", {count} of {plural(self.replicas, 'replica')}"
        if self.starts:
            return f"{where} starts on {self.node} ({also})"
        volumes = f"; its volumes ({', '.join(map(safe, self.volumes))}) stay on {self.node}" if self.volumes else ""
        return f"{where} stops on {self.node}, which is {self.why} ({also}){volumes}"

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return {
            "environment": str(self.environment),
            "service": self.service,
            "node": self.node,
            "change": "starts" if self.starts else "stops",
            "elsewhere": list(self.elsewhere),
            "volumes": list(self.volumes),
            "nowhere": self.nowhere,
        }


def service_moves(
    environment: EnvironmentRef,
    services: Sequence[Service],
    before: Node,
    after: Node,
    others: Sequence[Node],
    held: Held,
) -> list[ServiceMove]:
    """What changes for ``services`` when a node, ``before``, becomes ``after``, in the order given.

    ``others`` are the environment's other nodes, ``held`` says who runs what now. A cordoned node keeps what it runs
    and takes nothing new, so nothing moves to or from it; and another that is cordoned still runs what its labels let
    it. Replicas that leave the node start on others.
    """
    if after.cordoned:
        return []
    now, then = layout(services, [before, *others], held), layout(services, [after, *others], held)
    found = []
    for service in services:
        if service.replicas:
            found += _of_replicas(environment, service, after, now, then)
        elif (starts := places(service, after)) != places(service, before):
            elsewhere = tuple(node.name for node in others if places(service, _uncordoned(node)))
            found.append(_move(environment, service, after.name, starts, why_not(service, after), elsewhere))
    return found


def _of_replicas(
    environment: EnvironmentRef, service: Service, after: Node, now: Layout, then: Layout
) -> list[ServiceMove]:
    before, left = set(now.spreads[service.name].nodes), set(then.spreads[service.name].nodes)
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
    )


def _uncordoned(node: Node) -> Node:
    copy = Node()
    copy.CopyFrom(node)
    copy.cordoned = False
    return copy
