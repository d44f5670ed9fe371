"""Which node runs which service: the one rule that the controller assigns by and the command line plans with.

Pure functions over messages; nothing here reads or writes. A node runs one copy of each service of the environments
attached to it whose kind is among the node's labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service

# What a node runs that was registered without saying so.
DEFAULT_LABELS: Final = ("web",)
LABELS: Final[Mapping[Service.Kind.ValueType, str]] = MappingProxyType({Service.WEB: "web", Service.WORKER: "worker"})


def label_needed(service: Service) -> str:
    """The label that a node needs to run ``service``; "" for a kind that this version does not know."""
    return LABELS.get(service.kind, "")


def places(service: Service, node: Node) -> bool:
    """Whether ``node``, attached to the environment, runs ``service``."""
    return why_not(service, node) == ""


def why_not(service: Service, node: Node) -> str:
    """Why ``node`` does not run ``service``, as a clause about the node; "" when it does run it."""
    label = label_needed(service)
    if not label:
        return f"this version does not know the kind of service {service.name!r}"
    if label not in node.labels:
        has = ", ".join(sorted(node.labels)) or "none"
        return f'not labelled "{label}" (labels: {has})'
    return ""


def unplaced(services: Iterable[Service], nodes: Sequence[Node]) -> list[Service]:
    """The services that none of the attached ``nodes`` runs, in the order given."""
    return [service for service in services if not any(places(service, node) for node in nodes)]
