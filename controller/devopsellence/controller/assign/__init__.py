"""Assignments: the part of a release that each node is to run, with its secrets and image peers.

Pure. Which nodes move now is decided in ``rollout``, where replicas go in ``scheduler``.
"""
