"""Order of starts and stops by ``depends_on``.

A container is created but not started while a dependency of its service is missing. A running container is left alone
whatever happens to its dependencies. Containers stopped for good are stopped in the reverse order. A dependency is met
when the other service is ready: its probes pass or, without probes, it has run for a moment. A service of another node
cannot be waited for here: the command line and the controller refuse such a release.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Final

from devopsellence.api.v1 import workload_pb2

Dependency = workload_pb2.Dependency


@dataclass(frozen=True, slots=True)
class DependencyState:
    """State of a service, for the services that depend on it. ``reason``: why the service is not further."""

    #: A container of the assigned spec runs and passes all probes.
    ready: bool
    #: A container of the assigned spec exited with code 0.
    completed: bool
    reason: str = ""
    #: As in ``ServicePlan``.
    waits_for_older: bool = False


@dataclass(frozen=True, slots=True)
class UnmetDependencies:
    """Names of the services that a service has to wait for, and a sentence about them; empty if there are none."""

    services: tuple[str, ...] = ()
    reason: str = ""


_CONDITIONS: Final = {
    Dependency.SERVICE_HEALTHY: "to be healthy",
    Dependency.SERVICE_COMPLETED_SUCCESSFULLY: "to complete",
}


def unmet_dependencies(service: workload_pb2.Service, states: Mapping[str, DependencyState]) -> UnmetDependencies:
    """Return the dependencies that a service has to wait for.

    ``states``: services of this node planned before this one (see :func:`start_order`), by name.
    """
    unmet = {
        dependency.service: f"for {dependency.service} {_CONDITIONS.get(dependency.condition, 'to be ready')}"
        f"{f': {state.reason}' if state.reason else ''}"
        for dependency in service.depends_on
        if (state := states.get(dependency.service)) is not None and not _is_met(dependency.condition, state)
    }
    return UnmetDependencies(tuple(unmet), f"waits {'; '.join(unmet.values())}") if unmet else UnmetDependencies()


def _is_met(condition: workload_pb2.Dependency.Condition.ValueType, state: DependencyState) -> bool:
    if condition == Dependency.SERVICE_COMPLETED_SUCCESSFULLY:
        return state.completed
    return state.ready or state.completed


def dependency_cycles(services: Collection[workload_pb2.Service]) -> dict[str, str]:
    """Return a problem sentence for every service that depends on itself through others, by name."""
    graph = {service.name: [dependency.service for dependency in service.depends_on] for service in services}
    return {
        name: f"it depends on itself: {' → '.join([name, *path])}"
        for name in graph
        if (path := _path(graph, name, name)) is not None
    }


def start_order(graph: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Return the keys of an acyclic graph (dependencies by name), dependencies first."""
    present = {name: [dependency for dependency in graph[name] if dependency in graph] for name in graph}
    return iter(TopologicalSorter(present).static_order())


def stops_after(service: str, dependents: Mapping[str, Collection[str]]) -> list[str]:
    """Return the services to stop before ``service``, sorted.

    ``dependents``: dependent services by name, from container labels, which can be outdated. A dependent service that
    is itself waiting for ``service`` does not count, so that no stop waits forever.
    """
    return sorted(
        name for name in dependents.get(service, ()) if name != service and _path(dependents, name, service) is None
    )


def _path(graph: Mapping[str, Collection[str]], start: str, end: str) -> list[str] | None:
    """Return a shortest path of at least one edge from ``start`` to ``end``, without ``start``; None if none exists."""
    reached: dict[str, list[str]] = {}
    frontier: list[tuple[str, list[str]]] = [(start, [])]
    while frontier:
        following: list[tuple[str, list[str]]] = []
        for name, path in frontier:
            for neighbor in sorted(graph.get(name, ())):
                if neighbor not in reached:
                    reached[neighbor] = [*path, neighbor]
                    following.append((neighbor, reached[neighbor]))
        if end in reached:
            return reached[end]
        frontier = following
    return None
