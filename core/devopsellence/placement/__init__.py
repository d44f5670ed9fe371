"""Which node runs which service, and why not: the one rule, for the controller and the command line alike.

Pure functions over messages; nothing here reads or writes. A node runs one copy of each service of the environments
attached to it that passes every filter. In the manner of swarmkit's ``scheduler/filter.go`` each filter can explain
itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service

# What a node runs that was registered without saying so.
DEFAULT_LABELS: Final = ("web",)
LABELS: Final[Mapping[Service.Kind.ValueType, str]] = MappingProxyType({Service.WEB: "web", Service.WORKER: "worker"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a service runs nowhere, and the command that mends it; as text, one sentence of both."""

    reason: str
    command: str

    def __str__(self) -> str:
        return f"{self.reason}; run {self.command}"


class Filter(Protocol):
    """One condition that a node meets or not."""

    def why_not(self, service: Service, node: Node) -> str:
        """Why ``node`` may not run ``service``, as a clause about the node; "" if it may."""
        ...

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        """Why none of ``rejected`` (at least one, in order of name) may run it."""
        ...


class LabelFilter:
    """The service's kind must be among the node's labels."""

    def why_not(self, service: Service, node: Node) -> str:
        label = label_needed(service)
        if not label:
            return f'this version does not know of what kind service "{service.name}" is'
        if label in node.labels:
            return ""
        return f'not labelled "{label}" (labels: {", ".join(sorted(node.labels)) or "none"})'

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        label = label_needed(service)
        if not label:
            reason = f'the release does not say of what kind service "{service.name}" is'
            return Refusal(reason, "devopsellence deploy")
        node, labels = "<node>", set(LABELS.values())
        if len(rejected) == 1:
            node, labels = rejected[0].name, {*rejected[0].labels, label}
        return Refusal(
            f'no attached node is labelled "{label}", which service "{service.name}" needs',
            f"devopsellence node label set {node} --labels {','.join(sorted(labels))}",
        )


class CordonFilter:
    """A cordoned node keeps what it runs and takes nothing new."""

    def why_not(self, service: Service, node: Node) -> str:
        return "cordoned" if node.cordoned else ""

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        names = ", ".join(node.name for node in rejected)
        return Refusal(
            f'every attached node that could run service "{service.name}" is cordoned ({names})',
            f"devopsellence node uncordon {rejected[0].name}",
        )


FILTERS: Final[tuple[Filter, ...]] = (LabelFilter(), CordonFilter())


def label_needed(service: Service) -> str:
    """The label that a node needs to run ``service``; "" for a kind that this version does not know."""
    return LABELS.get(service.kind, "")


def why_not(service: Service, node: Node) -> str:
    """Why ``node``, attached to the environment, does not run ``service``, as a clause; "" when it does run it."""
    return next((reason for each in FILTERS if (reason := each.why_not(service, node))), "")


def places(service: Service, node: Node) -> bool:
    """Whether ``node``, attached to the environment, runs ``service``."""
    return why_not(service, node) == ""


def placed_on(node: Node, services: Iterable[Service]) -> list[Service]:
    """Those of ``services`` that ``node`` runs, in the order given."""
    return [service for service in services if places(service, node)]


def unplaced(services: Iterable[Service], nodes: Sequence[Node]) -> list[Service]:
    """The services that none of the attached ``nodes`` runs, in the order given."""
    return [service for service in services if not any(places(service, node) for node in nodes)]


def why_nowhere(service: Service, nodes: Sequence[Node]) -> Refusal | None:
    """Why ``service`` runs on none of ``nodes``, the attached ones; None if one of them runs it."""
    if not nodes:
        reason = f'no node is attached, so service "{service.name}" runs nowhere'
        return Refusal(reason, "devopsellence node attach <node>")
    candidates = nodes
    for each in FILTERS:
        left = [node for node in candidates if not each.why_not(service, node)]
        if not left:
            return each.explain(service, candidates)
        candidates = left
    return None
