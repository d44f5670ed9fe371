"""Frozen data shared by the packages of the controller: snapshot of an environment, actions, events, reachability.

No IO, no clock, and no imports from other packages of the controller.

Actions and events are covered by tests/unit/controller/test_plan.py, hosts by ingress/test_claims.py beside it.
"""
