"""In which steps a release would reach the nodes, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import RolloutPolicy
from devopsellence.placement.max_parallel import limit_of


def at_a_time(policy: RolloutPolicy, nodes: Sequence[Node]) -> int:
    """How many of the attached ``nodes`` would move at once; 0 where none would move at all."""
    moving = sum(1 for node in nodes if not node.cordoned)
    return min(moving, limit_of(policy.max_parallel, moving))


def described(policy: RolloutPolicy, nodes: Sequence[Node]) -> str:
    """How the attached ``nodes`` would move, and what happens if one fails; "" where there are no steps."""
    moving, limit = sum(1 for node in nodes if not node.cordoned), at_a_time(policy, nodes)
    if moving < 2:
        return ""
    written = f" (max_parallel {policy.max_parallel})" if policy.max_parallel else ""
    pace = f"all {moving} nodes at once" if limit == moving else f"{limit} of {moving} nodes at a time"
    halts = policy.on_failure == RolloutPolicy.HALT
    failed = "it halts" if halts else "all go back to the last release that settled"
    return f"{pace}{written}; if a node fails, {failed}"
