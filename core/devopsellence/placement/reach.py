"""Reach of dependencies: services find each other by name on the same node only.

Pure. A service that waits for another one and is placed without it would be started, and would never reach it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.workload_pb2 import Dependency, Service
from devopsellence.placement.scheduler import Placement

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class UnreachableDependency:
    """A dependency of ``service`` on ``dependency``, which does not run on ``nodes``, although ``service`` does.

    ``awaits_completion``: the dependency is to complete, not to be reached.
    """

    service: str
    dependency: str
    nodes: tuple[str, ...]
    awaits_completion: bool = False

    def __str__(self) -> str:
        more = f" and {len(self.nodes) - _NAMED} more" if len(self.nodes) > _NAMED else ""
        nodes = f"{', '.join(self.nodes[:_NAMED])}{more}"
        sentence = f'service "{self.service}" depends on "{self.dependency}", which does not run on {nodes}'
        if self.awaits_completion:
            return f"{sentence}: there its completion is not awaited"
        return (
            f"{sentence}, and a service reaches only services of its own node: let both run on the same nodes "
            "(labels, replicas), or remove the dependency"
        )


def unreachable_dependencies(services: Sequence[Service], placement: Placement) -> list[UnreachableDependency]:
    """Return the dependencies between ``services`` that are missing from nodes of the dependent service."""
    known = {service.name for service in services}
    concerned = {
        name
        for service in services
        if service.depends_on
        for name in (service.name, *(dependency.service for dependency in service.depends_on))
    }
    nodes_of = {name: placement.nodes_of(name) for name in concerned & known}
    return [
        UnreachableDependency(
            service.name, dependency.service, without, dependency.condition == Dependency.SERVICE_COMPLETED_SUCCESSFULLY
        )
        for service in services
        for dependency in service.depends_on
        if dependency.service in nodes_of
        and (without := _missing(nodes_of[service.name], nodes_of[dependency.service]))
    ]


def _missing(nodes: Iterable[str], present: Iterable[str]) -> tuple[str, ...]:
    known = frozenset(present)
    return tuple(name for name in nodes if name not in known)
