"""The conditions that a node meets or not, each of which can explain itself.

In the manner of swarmkit's ``scheduler/filter.go``. A filter is asked two things, because what a node takes anew and
what it may keep are not the same: a cordoned node takes nothing and keeps everything.
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
    """Why a service does not run where it should, and the command that mends it; as text, one sentence of both."""

    reason: str
    command: str

    def __str__(self) -> str:
        return f"{self.reason}; run {self.command}"


class Filter(Protocol):
    """One condition that a node meets or not."""

    def fingerprint(self, node: Node) -> Hashable:
        """All of ``node`` that the answers depend on: of nodes that look the same, one needs to be asked about."""
        ...

    def why_not(self, service: Service, node: Node) -> str:
        """Why ``node`` may not be given ``service``, as a clause about the node; "" if it may."""
        ...

    def why_leaves(self, service: Service, node: Node) -> str:
        """Why a copy of ``service`` that ``node`` has is to leave it, as a clause about the node; "" if it may stay."""
        ...

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        """Why none of ``rejected`` (at least one, in order of name) may run it."""
        ...


class LabelFilter:
    """The service's kind must be among the node's labels."""

    def fingerprint(self, node: Node) -> Hashable:
        return tuple(node.labels)

    def why_not(self, service: Service, node: Node) -> str:
        label = label_needed(service)
        if not label:
            return f'this version does not know of what kind service "{service.name}" is'
        if label in node.labels:
            return ""
        return f'not labelled "{label}" (labels: {", ".join(sorted(node.labels)) or "none"})'

    def why_leaves(self, service: Service, node: Node) -> str:
        return self.why_not(service, node)

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


class DrainFilter:
    """A node that is being drained is emptied; what has a volume stays, unless that was said as well."""

    def fingerprint(self, node: Node) -> Hashable:
        return node.HasField("drain"), node.drain.volumes

    def why_not(self, service: Service, node: Node) -> str:
        return "being drained" if node.HasField("drain") else ""

    def why_leaves(self, service: Service, node: Node) -> str:
        return self.why_not(service, node) if node.drain.volumes or not service.volumes else ""

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        return _every(service, rejected, "being drained", "uncordon")


class CordonFilter:
    """A cordoned node keeps what it runs and takes nothing new."""

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
    """A node that does not answer is given no replica, and loses those that it has when it is gone.

    Only for services with a number of replicas: the others run on every node, and catch up when it is back. What has a
    volume does not move on its own.
    """

    # By name: a clause about the node, such as "unreachable".
    silent: Mapping[str, str]
    # Those of them that are not waited for any longer.
    gone: AbstractSet[str] = frozenset()

    def fingerprint(self, node: Node) -> Hashable:
        return node.name if node.name in self.silent else ""

    def why_not(self, service: Service, node: Node) -> str:
        return self.silent.get(node.name, "") if service.replicas else ""

    def why_leaves(self, service: Service, node: Node) -> str:
        return self.why_not(service, node) if node.name in self.gone and not service.volumes else ""

    def explain(self, service: Service, rejected: Sequence[Node]) -> Refusal:
        return _every(service, rejected, "unreachable", "diagnose")


FILTERS: Final[tuple[Filter, ...]] = (LabelFilter(), DrainFilter(), CordonFilter())


def label_needed(service: Service) -> str:
    """The label that a node needs to run ``service``; "" for a kind that this version does not know."""
    return LABELS.get(service.kind, "")


def why_not(service: Service, node: Node, filters: Sequence[Filter] = FILTERS) -> str:
    """Why ``node``, attached to the environment, may not be given ``service``, as a clause; "" when it may."""
    return next((reason for each in filters if (reason := each.why_not(service, node))), "")


def why_leaves(service: Service, node: Node, filters: Sequence[Filter] = FILTERS) -> str:
    """Why a copy of ``service`` that ``node`` has is to leave it, as a clause; "" when it may stay."""
    return next((reason for each in filters if (reason := each.why_leaves(service, node))), "")


def why_nowhere(service: Service, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> Refusal | None:
    """Why ``service`` may run on none of ``nodes``, the attached ones; None if it may on one of them."""
    if not nodes:
        reason = f'no node is attached, so service "{service.name}" runs nowhere'
        return Refusal(reason, "devopsellence node attach <node>")
    candidates = nodes
    for each in filters:
        left = [node for node in candidates if not each.why_not(service, node)]
        if not left:
            return each.explain(service, candidates)
        candidates = left
    return None


def how_to_make_room(service: Service, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> str:
    """The command that lets one more of ``nodes``, the attached ones, run ``service``: where the least is in the way.

    Where all of them may run it already, another node is needed.
    """
    candidates, refusal = nodes, None
    for each in filters:
        rejected = [node for node in candidates if each.why_not(service, node)]
        refusal = each.explain(service, rejected) if rejected else refusal
        candidates = [node for node in candidates if not each.why_not(service, node)]
    return refusal.command if refusal is not None else "devopsellence node attach <node>"


def _every(service: Service, rejected: Sequence[Node], what: str, mend: str) -> Refusal:
    names = ", ".join(node.name for node in rejected)
    return Refusal(
        f'every attached node that could run service "{service.name}" is {what} ({names})',
        f"devopsellence node {mend} {rejected[0].name}",
    )
