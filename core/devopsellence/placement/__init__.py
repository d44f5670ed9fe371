"""Placement of services on nodes, with reasons; shared by the controller and the CLI.

Pure functions over messages; no IO, no access to etcd or Docker. ``filters`` decides on candidates: may a node run a
service. ``copies`` ranks existing copies. ``scheduler`` chooses among the candidates: a service runs once on every
attached node that passes all filters, or with ``replicas`` on that number of nodes. ``reach`` finds dependencies that
are out of reach. ``task`` orders the nodes for the release task, ``max_parallel`` computes batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.placement.copies import (
    Copy,
    CopyRank,
    CopyState,
    HeldCopies,
    NodeRecords,
    is_settled,
    ranked_copies,
    record_choice,
)
from devopsellence.placement.filters import (
    FILTERS,
    LABELS,
    Filter,
    Refusal,
    UnreachableFilter,
    label_needed,
    why_leaves,
    why_not,
    why_nowhere,
)
from devopsellence.placement.reach import UnreachableDependency, unreachable_dependencies
from devopsellence.placement.scheduler import (
    Placement,
    ReplicaPlacement,
    compute_placement,
    why_short,
    why_stuck,
)
from devopsellence.placement.task import task_nodes

__all__ = [
    "DEFAULT_LABELS",
    "FILTERS",
    "LABELS",
    "Copy",
    "CopyRank",
    "CopyState",
    "Filter",
    "HeldCopies",
    "NodeRecords",
    "Placement",
    "Refusal",
    "ReplicaPlacement",
    "UnreachableDependency",
    "UnreachableFilter",
    "compute_placement",
    "is_settled",
    "label_needed",
    "may_run",
    "ranked_copies",
    "record_choice",
    "services_for_node",
    "task_nodes",
    "unplaced_services",
    "unreachable_dependencies",
    "why_leaves",
    "why_not",
    "why_nowhere",
    "why_short",
    "why_stuck",
]

# Labels of a node registered without labels.
DEFAULT_LABELS: Final = ("web",)


def may_run(service: Service, node: Node) -> bool:
    """Return True if ``node``, attached to the environment, may run ``service``."""
    return why_not(service, node) == ""


def services_for_node(node: Node, services: Iterable[Service]) -> list[Service]:
    """Return the ``services`` that ``node`` may run, in the given order."""
    return [service for service in services if may_run(service, node)]


def unplaced_services(services: Iterable[Service], nodes: Sequence[Node]) -> list[Service]:
    """Return the services that none of the attached ``nodes`` may run, in the given order."""
    return [service for service in services if not any(may_run(service, node) for node in nodes)]
