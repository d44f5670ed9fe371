"""Nodes: register, list, label, attach, drain, remove. A machine has access while its node's record names it.

``workload`` is everything a node runs, ``wait`` waits for a change of it; ``drain_preview``, ``relabel`` and ``moves``
predict changes, ``heartbeat`` ends that of a machine before. The controller alone writes assignments: nothing here
does.

Modules that write to etcd or wait are covered by tests/integration/cli/test_nodes.py and tests/integration/machines.
"""
