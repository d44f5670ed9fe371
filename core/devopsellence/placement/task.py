"""Nodes for the release task of a release, the best first.

The task runs beside the copies that stay: a migration of a database that is then removed would be lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.placement.copies import HeldCopies
from devopsellence.placement.scheduler import Placement


def task_nodes(
    service: Service,
    services: Sequence[Service],
    candidates: Iterable[Node],
    placement: Placement,
    held: HeldCopies,
    unreachable: Collection[str],
) -> list[str]:
    """Return the names of ``candidates``, nodes that may run the task, the best first.

    The best node runs everything with data that the ``service`` of the task depends on, and has no copy with data that
    leaves. Of equal nodes a reachable one is best, then one that runs the other dependencies, then one that runs most
    of the remaining supporting ``services``, then the first by name.
    """
    data = {other.name for other in services if other.volumes}
    dependencies = _dependencies(service, services)
    supporting = [other.name for other in services if not other.image.app or other.name == service.name]

    def cost(node: Node) -> tuple[int, bool, int, int, str]:
        runs = placement.services.get(node.name, frozenset())
        leaving = {name for name, copies in held.copies.items() if node.name in copies and name not in runs}
        lacking = (dependencies - runs) | leaving
        elsewhere = sum(name not in runs for name in supporting)
        return len(lacking & data), node.name in unreachable, len(lacking), elsewhere, node.name

    return [node.name for node in sorted(candidates, key=cost)]


def _dependencies(service: Service, services: Iterable[Service]) -> set[str]:
    """Return the names of everything that ``service`` depends on, directly or not."""
    known = {other.name: other for other in services}
    found: set[str] = set()
    left = [dependency.service for dependency in service.depends_on]
    while left:
        name = left.pop()
        if name in known and name not in found:
            found.add(name)
            left += (dependency.service for dependency in known[name].depends_on)
    return found
