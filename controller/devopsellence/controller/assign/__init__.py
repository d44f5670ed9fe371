"""Assignments: the part of a release for each node, with secrets and image peers.

Pure. The choice of the nodes to update now belongs in ``rollout``, the placement of replicas in ``scheduler``.
"""
