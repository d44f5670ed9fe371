"""Who is started after whom, and stopped before whom. Pure.

Dependencies are for starting: a container is created, but not started, while what its service depends on is not there
yet. One that runs is left alone, whatever becomes of its dependencies. What is stopped for good is stopped in the
reverse order. A dependency on a service that this node does not run is not waited for here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Final

from devopsellence.api.v1 import workload_pb2

Dependency = workload_pb2.Dependency


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a service is, for those that wait for it; ``reason``: why it is no further."""

    #: A container of its assigned spec is up.
    started: bool
    #: It is up, and all checks pass.
    ready: bool
    #: A container of its assigned spec has ended with exit code 0.
    completed: bool
    reason: str = ""


_WORDS: Final = {
    Dependency.SERVICE_HEALTHY: "to be healthy",
    Dependency.SERVICE_COMPLETED_SUCCESSFULLY: "to complete",
}


def waits(service: workload_pb2.Service, standings: Mapping[str, Standing]) -> str:
    """What a service must wait for before it is started, and why that is not there yet; empty if for nothing.
    ``standings``: the services of this node that are known already (see :func:`order`)."""
    unmet = [
        f"for {each.service} {_WORDS.get(each.condition, 'to be started')}{f': {found.reason}' if found.reason else ''}"
        for each in service.depends_on
        if (found := standings.get(each.service)) is not None and not _met(each.condition, found)
    ]
    return f"waits {'; '.join(unmet)}" if unmet else ""


def _met(condition: workload_pb2.Dependency.Condition.ValueType, standing: Standing) -> bool:
    if condition == Dependency.SERVICE_COMPLETED_SUCCESSFULLY:
        return standing.completed
    if condition == Dependency.SERVICE_HEALTHY:
        return standing.ready or standing.completed
    return standing.started or standing.completed


def cycles(services: Collection[workload_pb2.Service]) -> dict[str, str]:
    """What is wrong with the services that wait for themselves through others, in a sentence for each."""
    graph = {service.name: [each.service for each in service.depends_on] for service in services}
    return {
        name: f"it depends on itself: {' → '.join([name, *path])}"
        for name in graph
        if (path := _path(graph, name, name)) is not None
    }


def order(graph: Mapping[str, Collection[str]]) -> Iterator[str]:
    """The keys of a graph without cycles (by name, what each depends on), dependencies first."""
    here = {name: [each for each in graph[name] if each in graph] for name in graph}
    return iter(TopologicalSorter(here).static_order())


def held_by(service: str, dependents: Mapping[str, Collection[str]]) -> list[str]:
    """Who has to stop before ``service`` does. ``dependents``: by name, who depends on it (from labels, which may be
    stale). Those that in turn have to wait for it do not count: nobody waits for ever."""
    return sorted(
        each for each in dependents.get(service, ()) if each != service and _path(dependents, each, service) is None
    )


def _path(graph: Mapping[str, Collection[str]], start: str, end: str) -> list[str] | None:
    """The steps of a shortest way of at least one step; None if there is no way."""
    reached: dict[str, list[str]] = {}
    front: list[tuple[str, list[str]]] = [(start, [])]
    while front:
        following: list[tuple[str, list[str]]] = []
        for name, path in front:
            for step in sorted(graph.get(name, ())):
                if step not in reached:
                    reached[step] = [*path, step]
                    following.append((step, reached[step]))
        if end in reached:
            return reached[end]
        front = following
    return None
