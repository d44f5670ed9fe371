"""Rollouts: target release, batches, the release task, progress of nodes, verdict and status.

Pure. Content of assignments belongs in ``assign``.

``coverage``, ``history``, ``node_progress``, ``status`` and ``events`` are covered by
tests/unit/controller/rollout/test_verdict.py, ``task_stage`` by test_task.py.
"""
