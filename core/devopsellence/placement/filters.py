"""Placement filters: conditions on a node, each with an explanation.

Modelled on swarmkit's ``scheduler/filter.go``. A filter decides separately on new and existing copies: a cordoned node
takes no new copy and keeps all existing ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service

LABELS: Final[Mapping[Service.Kind.ValueType, str]] = MappingProxyType({Service.WEB: "web", Service.WORKER: "worker"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason for a missing placement, and the command that fixes the problem; ``str()`` joins both in a sentence."""

    reason: str
    command: str

    def __str__(self) -> str:
        return f"{self.reason}; run {self.command}"


class Filter(Protocol):
    """Condition on a node for running a service."""

    def fingerprint(self, node: Node) -> Hashable:
        """Return all properties of ``node`` that matter to the filter: equal fingerprints give equal results."""
        ...

    def why_not(self, service: Service, node: Node) -> str:
        """Return the reason against a new copy of ``service`` on ``node``, as a clause about the node; "" for none."""
        ...

    def why_leaves(self, service: Service, node: Node) -> str:
        """Return the reason to remove an existing copy of ``service``, as a clause about the node; "" for none."""
        ...

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        """Explain that none of ``rejected`` (at least one node, sorted by name) may run ``service``."""
        ...


class LabelFilter:
    """Node label for the kind of the service."""

    def fingerprint(self, node: Node) -> Hashable:
        return tuple(node.labels)

    def why_not(self, service: Service, node: Node) -> str:
        label = label_needed(service)
        if not label:
            return f'service "{service.name}" is of a kind unknown to this version'
        if label in node.labels:
            return ""
        return f'not labelled "{label}" (labels: {", ".join(sorted(node.labels)) or "none"})'

    def why_leaves(self, service: Service, node: Node) -> str:
        return self.why_not(service, node)

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        label = label_needed(service)
        if not label:
            reason = f'the release does not state the kind of service "{service.name}"'
            return Refusal(reason, "devopsellence deploy")
        node, labels = "<node>", set(LABELS.values())
        if len(rejected) == 1:
            node, labels = rejected[0].name, {*rejected[0].labels, label}
        return Refusal(
            f'no attached node is labelled "{label}", which service "{service.name}" needs',
            f"devopsellence node label set {node} --labels {','.join(sorted(labels))}",
        )


class DrainFilter:
    """No copies on a draining node; services with volumes stay, unless the drain includes volumes."""

    def fingerprint(self, node: Node) -> Hashable:
        return node.HasField("drain"), node.drain.volumes

    def why_not(self, service: Service, node: Node) -> str:
        return "being drained" if node.HasField("drain") else ""

    def why_leaves(self, service: Service, node: Node) -> str:
        return self.why_not(service, node) if node.drain.volumes or not service.volumes else ""

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        return _every(service, rejected, "being drained", "uncordon")


class CordonFilter:
    """No new copies on a cordoned node; existing copies stay."""

    def fingerprint(self, node: Node) -> Hashable:
        return node.cordoned

    def why_not(self, service: Service, node: Node) -> str:
        return "cordoned" if node.cordoned else ""

    def why_leaves(self, service: Service, node: Node) -> str:
        return ""

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        return _every(service, rejected, "cordoned", "uncordon")


@dataclass(frozen=True, slots=True)
class UnreachableFilter:
    """No new replicas on an unreachable node; replicas on a lost node move.

    Only for services with ``replicas``: all other services run on every node, and catch up when the node is back.
    Services with volumes do not move automatically.
    """

    # By node name: a clause about the node, such as "unreachable".
    unreachable: Mapping[str, str]
    # Names of unreachable nodes whose grace period has passed.
    lost: AbstractSet[str] = frozenset()

    def fingerprint(self, node: Node) -> Hashable:
        return node.name if node.name in self.unreachable else ""

    def why_not(self, service: Service, node: Node) -> str:
        return self.unreachable.get(node.name, "") if service.replicas else ""

    def why_leaves(self, service: Service, node: Node) -> str:
        return self.why_not(service, node) if node.name in self.lost and not service.volumes else ""

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        return _every(service, rejected, "unreachable", "diagnose")


FILTERS: Final[tuple[Filter, ...]] = (LabelFilter(), DrainFilter(), CordonFilter())


def label_needed(service: Service) -> str:
    """Return the node label needed to run ``service``; "" for a kind unknown to this version."""
    return LABELS.get(service.kind, "")


def why_not(service: Service, node: Node, filters: Sequence[Filter] = FILTERS) -> str:
    """Return the reason against a new copy of ``service`` on the attached ``node``, as a clause; "" for none."""
    return next((reason for node_filter in filters if (reason := node_filter.why_not(service, node))), "")


def why_leaves(service: Service, node: Node, filters: Sequence[Filter] = FILTERS) -> str:
    """Return the reason to remove the existing copy of ``service`` from ``node``, as a clause; "" to keep the copy."""
    return next((reason for node_filter in filters if (reason := node_filter.why_leaves(service, node))), "")


def why_nowhere(service: Service, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> Refusal | None:
    """Explain that none of the attached ``nodes`` may run ``service``; None if any node may."""
    if not nodes:
        reason = f'no node is attached, so service "{service.name}" runs nowhere'
        return Refusal(reason, "devopsellence node attach <node>")
    candidates = nodes
    for node_filter in filters:
        remaining = [node for node in candidates if not node_filter.why_not(service, node)]
        if not remaining:
            return node_filter.explain(service, candidates)
        candidates = remaining
    return None


def how_to_make_room(service: Service, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> str:
    """Return the command that lets another of the attached ``nodes`` run ``service``, with the smallest change.

    If all nodes may run the service already, the command attaches another node.
    """
    candidates, refusal = nodes, None
    for node_filter in filters:
        rejected = [node for node in candidates if node_filter.why_not(service, node)]
        refusal = node_filter.explain(service, rejected) if rejected else refusal
        candidates = [node for node in candidates if not node_filter.why_not(service, node)]
    return refusal.command if refusal is not None else "devopsellence node attach <node>"


def _every(service: Service, rejected: Sequence[Node], state: str, subcommand: str) -> Refusal:
    names = ", ".join(node.name for node in rejected)
    return Refusal(
        f'every attached node that could run service "{service.name}" is {state} ({names})',
        f"devopsellence node {subcommand} {rejected[0].name}",
    )
