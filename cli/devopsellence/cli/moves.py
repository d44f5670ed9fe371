"""What a change of a node moves: which services start there, which stop, and which would run nowhere then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.view.words import safe
from devopsellence.placement import places, why_not
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Move:
    """A service that starts or stops on the node; ``elsewhere`` are the environment's other nodes that run it."""

    environment: EnvironmentRef
    service: str
    starts: bool
    why: str
    elsewhere: tuple[str, ...]
    volumes: tuple[str, ...]

    @property
    def nowhere(self) -> bool:
        """It runs now, and would run nowhere then."""
        return not self.starts and not self.elsewhere

    def text(self, node: str) -> str:
        """In a sentence."""
        where = f"{self.environment}: {safe(self.service)}"
        also = f"also on {', '.join(self.elsewhere)}" if self.elsewhere else "nowhere else"
        if self.starts:
            return f"{where} starts on {node} ({also})"
        volumes = f"; its volumes ({', '.join(map(safe, self.volumes))}) stay on {node}" if self.volumes else ""
        return f"{where} stops on {node}, which is {self.why} ({also}){volumes}"

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return {
            "environment": str(self.environment),
            "service": self.service,
            "change": "starts" if self.starts else "stops",
            "elsewhere": list(self.elsewhere),
            "volumes": list(self.volumes),
            "nowhere": self.nowhere,
        }


def moves(
    environment: EnvironmentRef, services: Iterable[Service], before: Node, after: Node, others: Sequence[Node]
) -> list[Move]:
    """What changes for ``services`` when the node, ``before``, becomes ``after``, in the order given.

    ``others`` are the environment's other nodes. A cordoned node keeps what it runs and takes nothing new, so nothing
    moves to or from it; and another that is cordoned still runs what its labels let it.
    """
    if after.cordoned:
        return []
    found = []
    for service in services:
        starts = places(service, after)
        if starts == places(service, before):
            continue
        found.append(
            Move(
                environment=environment,
                service=service.name,
                starts=starts,
                why=why_not(service, after),
                elsewhere=tuple(node.name for node in others if places(service, _uncordoned(node))),
                volumes=tuple(volume.source for volume in service.volumes),
            )
        )
    return found


def _uncordoned(node: Node) -> Node:
    copy = Node()
    copy.CopyFrom(node)
    copy.cordoned = False
    return copy
