"""Which node runs which service, and why not: the one rule, for the controller and the command line alike.

Pure functions over messages; nothing here reads or writes. ``filters``: which node may run a service. ``spread``: on
which of those it does. Each of the environments' services runs once on every attached node that passes all filters; one
with ``replicas`` on so many of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
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
from devopsellence.placement.scheduler import (
    HeldCopies,
    Placement,
    ReplicaPlacement,
    compute_placement,
    held_copies,
    why_short,
    why_stuck,
)

__all__ = [
    "DEFAULT_LABELS",
    "FILTERS",
    "LABELS",
    "Filter",
    "HeldCopies",
    "Placement",
    "Refusal",
    "ReplicaPlacement",
    "UnreachableFilter",
    "compute_placement",
    "held_copies",
    "label_needed",
    "may_run",
    "services_for_node",
    "unplaced_services",
    "why_leaves",
    "why_not",
    "why_nowhere",
    "why_short",
    "why_stuck",
]

# What a node runs that was registered without saying so.
DEFAULT_LABELS: Final = ("web",)


def may_run(service: Service, node: Node) -> bool:
    """Whether ``node``, attached to the environment, may run ``service``."""
    return why_not(service, node) == ""


def services_for_node(node: Node, services: Iterable[Service]) -> list[Service]:
    """Those of ``services`` that ``node`` may run, in the order given."""
    return [service for service in services if may_run(service, node)]


def unplaced_services(services: Iterable[Service], nodes: Sequence[Node]) -> list[Service]:
    """The services that none of the attached ``nodes`` may run, in the order given."""
    return [service for service in services if not any(may_run(service, node) for node in nodes)]
