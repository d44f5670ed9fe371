"""Assignments: the part of a release for each node, with secrets and image peers.

Pure. The choice of the nodes to update now belongs in ``rollout``, the placement of replicas in ``scheduler``.

``environment`` is covered by tests/unit/controller/test_plan.py and test_plan_any_order.py.
"""
