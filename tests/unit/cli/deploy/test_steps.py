"""In which steps a release would reach the nodes."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import RolloutPolicy
from devopsellence.cli.deploy.plan import nodes_at_a_time, rollout_order

BACK = "if a node fails, all nodes roll back to the last release that settled"


@pytest.mark.parametrize(
    ("written", "halt", "cordoned", "text"),
    [
        ("25%", False, 0, f"1 of 4 nodes at a time (max_parallel 25%); {BACK}"),
        ("3", True, 0, "3 of 4 nodes at a time (max_parallel 3); if a node fails, the rollout halts"),
        ("100%", False, 0, f"all 4 nodes at once (max_parallel 100%); {BACK}"),
        # Who takes no part does not count.
        ("50%", False, 2, f"1 of 2 nodes at a time (max_parallel 50%); {BACK}"),
        ("1", False, 3, ""),
    ],
    ids=["share", "count", "all", "cordoned", "one node"],
)
def test_how_nodes_move_is_said_where_there_are_steps(written: str, halt: bool, cordoned: int, text: str) -> None:
    nodes = [Node(name=f"n{number}", cordoned=number < cordoned) for number in range(4)]
    policy = RolloutPolicy(max_parallel=written, on_failure=RolloutPolicy.HALT if halt else RolloutPolicy.ROLLBACK)
    assert rollout_order(policy, nodes) == text
    assert nodes_at_a_time(policy, nodes) <= 4 - cordoned
