"""The reconcile loop: observe, plan, act, for one environment after another.

Calls to the engine and waiting belong here. Decisions do not: they are in ``plan``, which has no IO.

The loop is covered by tests/integration/nodeagent.
"""
