"""Plan of a deploy: created, replaced, kept and removed services by node, and the order of the nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Final

from devopsellence.api.v1.stored_pb2 import Assignment, Node
from devopsellence.api.v1.workload_pb2 import Image, RolloutPolicy, Service
from devopsellence.cli.deploy.replicas import placement_filters, placements_held
from devopsellence.cli.util.text import plural
from devopsellence.placement import Layout, Spread, layout, why_leaves
from devopsellence.placement.max_parallel import limit_of

#: What the agent takes over without another container; everything else is part of its spec's hash.
WITHOUT_RESTART: Final = frozenset({"kind", "ports", "healthcheck", "readiness", "depends_on", "completes", "replicas"})


class ChangeKind(Enum):
    """What becomes of a service on a node."""

    CREATED = "created"
    REPLACED = "replaced"
    KEPT = "kept"
    REMOVED = "removed"


@dataclass(frozen=True)
class ServiceChange:
    """``certain`` is False where it depends on an image that is not known yet: replaced if that differs, else kept."""

    node: str
    service: str
    kind: ChangeKind
    reason: str
    certain: bool = True


def plan(
    services: Sequence[Service],
    nodes: Sequence[Node],
    assigned: Mapping[str, Assignment],
    silent: AbstractSet[str] = frozenset(),
) -> list[ServiceChange]:
    """The steps from ``assigned`` (by node; none for a node that has no assignment) to ``services`` on ``nodes``.

    An image whose ``pinned`` is "" is not known yet. ``silent`` nodes are given no replicas. Sorted by node and
    service.
    """
    wanted = {service.name: service for service in services}
    placed = layout(services, nodes, placements_held(assigned), placement_filters(silent))
    steps = []
    for node in sorted(nodes, key=lambda each: each.name):
        before = _before(assigned.get(node.name))
        for name in sorted({*wanted, *before}):
            if node.cordoned:
                step = _left_alone(node, before.get(name))
            else:
                step = _step(node, name, wanted.get(name), before.get(name), placed, first=node.name not in assigned)
            if step is not None:
                steps.append(step)
    return steps


def summary(steps: Sequence[ServiceChange]) -> str:
    """``1 created, 2 replaced``, or that nothing changes."""
    counts = {kind: sum(step.kind is kind for step in steps) for kind in ChangeKind}
    return ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count) or "nothing to do"


def _before(assignment: Assignment | None) -> dict[str, Service]:
    if assignment is None or assignment.removed:
        return {}
    return {service.name: service for service in assignment.services}


def _left_alone(node: Node, before: Service | None) -> ServiceChange | None:
    """What becomes of a service on a node that takes nothing new."""
    if before is None:
        return None
    why = f"node is {'being drained' if node.HasField('drain') else 'cordoned'}"
    if node.HasField("drain") and why_leaves(before, node):
        return ServiceChange(node.name, before.name, ChangeKind.REMOVED, why)
    return ServiceChange(node.name, before.name, ChangeKind.KEPT, f"{why}, and keeps it as it is")


def _step(
    node: Node, name: str, wanted: Service | None, before: Service | None, placed: Layout, *, first: bool
) -> ServiceChange | None:
    if wanted is not None and name not in placed.services[node.name]:
        if before is None:
            return None
        why = why_leaves(wanted, node)
        return ServiceChange(
            node.name, name, ChangeKind.REMOVED, f"node is {why}" if why else _elsewhere(placed.spreads[name])
        )
    if wanted is None:
        return ServiceChange(node.name, name, ChangeKind.REMOVED, "no longer in the configuration")
    if before is None:
        reason = "first release on this node" if first else "not on this node yet"
        if wanted.replicas:
            reason = f"one of {_replicas(wanted)}"
        return ServiceChange(node.name, name, ChangeKind.CREATED, reason)
    changes = differences(before, wanted)
    if changes:
        return ServiceChange(node.name, name, ChangeKind.REPLACED, "; ".join(changes))
    gentle = [field for field in sorted(WITHOUT_RESTART) if getattr(before, field) != getattr(wanted, field)]
    if not wanted.image.pinned:
        what = "the app image is built anew" if wanted.image.app else f"{wanted.image.reference} is pulled anew"
        return ServiceChange(node.name, name, ChangeKind.REPLACED, f"only if the image differs: {what}", certain=False)
    kept = f"{', '.join(gentle)} changed, which needs no restart" if gentle else "nothing changed"
    return ServiceChange(node.name, name, ChangeKind.KEPT, kept)


def _replicas(service: Service) -> str:
    return plural(service.replicas, "replica")


def _elsewhere(spread: Spread) -> str:
    runs = "runs" if spread.service.replicas == 1 else "run"
    return f"its {_replicas(spread.service)} {runs} on {', '.join(spread.nodes)}"


def differences(before: Service, after: Service) -> list[str]:
    """What makes it another container, in words; an image that is not known yet counts as the same, and so does one of
    another name."""
    found = []
    if after.image.pinned and before.image.pinned != after.image.pinned:
        found.append(f"image {_short(before.image)} → {_short(after.image)}")
    for field in Service.DESCRIPTOR.fields:
        if field.name in WITHOUT_RESTART:
            continue
        if field.name == "env":
            found += _env_differences(before.env, after.env)
        elif field.name == "secret_refs":
            found += _secret_differences(before, after)
        elif field.name != "image" and getattr(before, field.name) != getattr(after, field.name):
            found.append(f"{field.name} changed")
    return found


def _env_differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    # Names only: a value may be something that people would not want in a log.
    names = {
        "added": sorted(after.keys() - before.keys()),
        "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        "removed": sorted(before.keys() - after.keys()),
    }
    return [f"env {', '.join(which)} {what}" for what, which in names.items() if which]


def _secret_differences(before: Service, after: Service) -> list[str]:
    """A version of 0 is one that is not known yet, and counts as the same."""
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
    """What the plan is about, in a line."""
    return f"{environment}: release {newest + 1} on {plural(len(nodes), 'node')} would be: {summary(steps)}"


def nodes_at_a_time(policy: RolloutPolicy, nodes: Sequence[Node]) -> int:
    """How many of the attached ``nodes`` would move at once; 0 where none would move at all."""
    moving = sum(1 for node in nodes if not node.cordoned)
    return min(moving, limit_of(policy.max_parallel, moving))


def rollout_order(policy: RolloutPolicy, nodes: Sequence[Node]) -> str:
    """How the attached ``nodes`` would move, and what happens if one fails; "" where there are no steps."""
    moving, limit = sum(1 for node in nodes if not node.cordoned), nodes_at_a_time(policy, nodes)
    if moving < 2:
        return ""
    written = f" (max_parallel {policy.max_parallel})" if policy.max_parallel else ""
    pace = f"all {moving} nodes at once" if limit == moving else f"{limit} of {moving} nodes at a time"
    halts = policy.on_failure == RolloutPolicy.HALT
    failed = "it halts" if halts else "all go back to the last release that settled"
    return f"{pace}{written}; if a node fails, {failed}"
