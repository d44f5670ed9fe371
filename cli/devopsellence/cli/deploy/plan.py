"""Plan of a deploy: created, replaced, kept and removed services by node, and the order of the nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from devopsellence.api.v1.stored_pb2 import Assignment, Node
from devopsellence.api.v1.workload_pb2 import Image, RolloutPolicy, Service
from devopsellence.cli.deploy.replicas import CurrentCopies
from devopsellence.cli.util.text import plural
from devopsellence.placement import Placement, ReplicaPlacement, why_leaves
from devopsellence.placement.max_parallel import limit_of

#: Fields that the agent applies without recreating the container; all other fields are part of the spec hash.
WITHOUT_RESTART: Final = frozenset({"kind", "ports", "healthcheck", "readiness", "depends_on", "completes", "replicas"})


class ChangeKind(Enum):
    """Change of a service on a node."""

    CREATED = "created"
    REPLACED = "replaced"
    KEPT = "kept"
    REMOVED = "removed"


@dataclass(frozen=True)
class ServiceChange:
    """Planned change of a service on a node.

    ``certain`` is False if the change depends on an image not yet known: replaced if the image differs, else kept.
    """

    node: str
    service: str
    kind: ChangeKind
    reason: str
    certain: bool = True


def plan(services: Sequence[Service], nodes: Sequence[Node], current: CurrentCopies) -> list[ServiceChange]:
    """Return the changes from ``current`` to ``services`` on ``nodes``, sorted by node and service.

    An image with an empty ``pinned`` is not known yet. Unreachable nodes get no replicas; nodes whose assignment cannot
    be read are left out.
    """
    by_name = {service.name: service for service in services}
    placed, assigned = current.place(services, nodes), current.assigned
    changes = []
    for node in sorted(nodes, key=lambda node: node.name):
        if node.name in current.unreadable:
            continue
        before = _before(assigned.get(node.name))
        for name in sorted({*by_name, *before}):
            if node.cordoned:
                change = _left_alone(node, before.get(name))
            else:
                change = _change_of(
                    node, name, by_name.get(name), before.get(name), placed, first=node.name not in assigned
                )
            if change is not None:
                changes.append(change)
    return changes


def summary(steps: Sequence[ServiceChange]) -> str:
    """Return the number of changes by kind: ``1 created, 2 replaced``, or ``nothing to do``."""
    counts = {kind: sum(step.kind is kind for step in steps) for kind in ChangeKind}
    return ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count) or "nothing to do"


def _before(assignment: Assignment | None) -> dict[str, Service]:
    if assignment is None or assignment.removed:
        return {}
    return {service.name: service for service in assignment.services}


def _left_alone(node: Node, before: Service | None) -> ServiceChange | None:
    """Return the change of a service on a cordoned node."""
    if before is None:
        return None
    why = f"node is {'being drained' if node.HasField('drain') else 'cordoned'}"
    if node.HasField("drain") and why_leaves(before, node):
        return ServiceChange(node.name, before.name, ChangeKind.REMOVED, why)
    return ServiceChange(node.name, before.name, ChangeKind.KEPT, f"{why}, so the service stays unchanged")


def _change_of(
    node: Node, name: str, service: Service | None, before: Service | None, placed: Placement, *, first: bool
) -> ServiceChange | None:
    if service is not None and name not in placed.services[node.name]:
        if before is None:
            return None
        why = why_leaves(service, node)
        return ServiceChange(
            node.name,
            name,
            ChangeKind.REMOVED,
            f"node is {why}" if why else _elsewhere(placed.replica_placements[name]),
        )
    if service is None:
        return ServiceChange(node.name, name, ChangeKind.REMOVED, "no longer in the configuration")
    if before is None:
        reason = "first release on this node" if first else "not on this node yet"
        if service.replicas:
            reason = f"one of {_replicas(service)}"
        return ServiceChange(node.name, name, ChangeKind.CREATED, reason)
    changes = differences(before, service)
    if changes:
        return ServiceChange(node.name, name, ChangeKind.REPLACED, "; ".join(changes))
    gentle = [field for field in sorted(WITHOUT_RESTART) if getattr(before, field) != getattr(service, field)]
    if not service.image.pinned:
        message = "the app image is rebuilt" if service.image.app else f"{service.image.reference} is pulled"
        return ServiceChange(
            node.name, name, ChangeKind.REPLACED, f"only if the image differs: {message}", certain=False
        )
    kept = f"{', '.join(gentle)} changed, which needs no restart" if gentle else "nothing changed"
    return ServiceChange(node.name, name, ChangeKind.KEPT, kept)


def _replicas(service: Service) -> str:
    return plural(service.replicas, "replica")


def _elsewhere(spread: ReplicaPlacement) -> str:
    runs = "runs" if spread.service.replicas == 1 else "run"
    return f"its {_replicas(spread.service)} {runs} on {', '.join(spread.nodes)}"


def differences(before: Service, after: Service) -> list[str]:
    """Return the differences that recreate the container, as text.

    An image not yet known counts as unchanged, as does the same image under another name.
    """
    changed = []
    if after.image.pinned and before.image.pinned != after.image.pinned:
        changed.append(f"image {_short(before.image)} → {_short(after.image)}")
    for field in Service.DESCRIPTOR.fields:
        if field.name in WITHOUT_RESTART:
            continue
        if field.name == "env":
            changed += _env_differences(before.env, after.env)
        elif field.name == "secret_refs":
            changed += _secret_differences(before, after)
        elif field.name != "image" and getattr(before, field.name) != getattr(after, field.name):
            changed.append(f"{field.name} changed")
    return changed


def _env_differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    # Names only: values may be confidential.
    names = {
        "added": sorted(after.keys() - before.keys()),
        "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        "removed": sorted(before.keys() - after.keys()),
    }
    return [f"env {', '.join(which)} {message}" for message, which in names.items() if which]


def _secret_differences(before: Service, after: Service) -> list[str]:
    """Return the changed secrets; version 0 means not known yet and counts as unchanged."""
    old = {(ref.name, ref.secret): ref.version for ref in before.secret_refs}
    new = {(ref.name, ref.secret): ref.version for ref in after.secret_refs}
    changed = {secret for (name, secret), version in new.items() if version and old.get((name, secret)) != version}
    gone = {secret for name, secret in old.keys() - new.keys()}
    added = {secret for name, secret in new.keys() - old.keys()}
    names = sorted(changed | gone | added)
    return [f"secret {', '.join(names)} changed"] if names else []


def _short(image: Image) -> str:
    _, _, digest = image.pinned.rpartition("sha256:")
    return f"{image.reference.partition('@')[0]} ({digest[:12]})" if image.reference else digest[:12]


def headline(environment: str, newest: int, steps: Sequence[ServiceChange], nodes: Sequence[Node]) -> str:
    """Return the first line of the plan."""
    return f"{environment}: release {newest + 1} on {plural(len(nodes), 'node')} would be: {summary(steps)}"


def nodes_at_a_time(policy: RolloutPolicy, nodes: Sequence[Node]) -> int:
    """Return the number of nodes updated at the same time; 0 if no node takes part."""
    moving = sum(1 for node in nodes if not node.cordoned)
    return min(moving, limit_of(policy.max_parallel, moving))


def rollout_order(policy: RolloutPolicy, nodes: Sequence[Node]) -> str:
    """Return the batch size and the reaction to a failed node as text; "" for a single node."""
    moving, limit = sum(1 for node in nodes if not node.cordoned), nodes_at_a_time(policy, nodes)
    if moving < 2:
        return ""
    written = f" (max_parallel {policy.max_parallel})" if policy.max_parallel else ""
    pace = f"all {moving} nodes at once" if limit == moving else f"{limit} of {moving} nodes at a time"
    halts = policy.on_failure == RolloutPolicy.HALT
    failed = "the rollout halts" if halts else "all nodes roll back to the last release that settled"
    return f"{pace}{written}; if a node fails, {failed}"
