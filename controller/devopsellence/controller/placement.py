"""Which services run on which node: filters that can also say why none does. Pure.

A node runs one copy of each service of the environments attached to it that passes every filter. In the manner of
swarmkit's ``scheduler/filter.go`` each filter has a ``check`` and an ``explain``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2

_LABELS: Final[dict[int, str]] = {workload_pb2.Service.WEB: "web", workload_pb2.Service.WORKER: "worker"}


class Filter(Protocol):
    """One condition that a node meets or not."""

    def check(self, node: pb.Node, service: workload_pb2.Service) -> bool:
        """Whether ``node`` may run ``service``."""
        ...

    def explain(self, service: workload_pb2.Service, rejected: Sequence[pb.Node]) -> str:
        """Why none of ``rejected`` (at least one, in order of name) may run it, and the command that mends it."""
        ...


class LabelFilter:
    """The service's kind must be among the node's labels."""

    def check(self, node: pb.Node, service: workload_pb2.Service) -> bool:
        return _LABELS.get(service.kind, "") in node.labels

    def explain(self, service: workload_pb2.Service, rejected: Sequence[pb.Node]) -> str:
        label = _LABELS.get(service.kind)
        if label is None:
            return f'the release does not say of what kind service "{service.name}" is; deploy again'
        node = rejected[0]
        labels = ",".join(sorted({*node.labels, label}))
        return (
            f'no attached node is labelled "{label}", which service "{service.name}" needs; '
            f"run devopsellence node label set {node.name} --labels {labels}"
        )


class CordonFilter:
    """A cordoned node keeps what it runs and takes nothing new."""

    def check(self, node: pb.Node, service: workload_pb2.Service) -> bool:
        return not node.cordoned

    def explain(self, service: workload_pb2.Service, rejected: Sequence[pb.Node]) -> str:
        names = ", ".join(node.name for node in rejected)
        return (
            f'every attached node that could run service "{service.name}" is cordoned ({names}); '
            f"run devopsellence node uncordon {rejected[0].name}"
        )


FILTERS: Final[tuple[Filter, ...]] = (LabelFilter(), CordonFilter())


def placed_on(node: pb.Node, services: Sequence[workload_pb2.Service]) -> list[workload_pb2.Service]:
    """Those of ``services`` that ``node`` runs, in the order given."""
    return [service for service in services if all(one.check(node, service) for one in FILTERS)]


def why_nowhere(service: workload_pb2.Service, nodes: Sequence[pb.Node]) -> str:
    """Why ``service`` runs on none of ``nodes``, the attached ones; empty if one of them may run it."""
    if not nodes:
        return f'no node is attached, so service "{service.name}" runs nowhere; run devopsellence node attach <node>'
    candidates = nodes
    for one in FILTERS:
        left = [node for node in candidates if one.check(node, service)]
        if not left:
            return one.explain(service, candidates)
        candidates = left
    return ""
