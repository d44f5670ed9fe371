"""Rollouts: target release, batches, the release task, progress of nodes, verdict and status.

Pure. Content of assignments belongs in ``assign``.
"""
