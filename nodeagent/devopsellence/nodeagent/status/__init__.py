"""Status reports of this node: assignment statuses, events and the heartbeat, and their writers.

Reports what the planner and Docker say; decides nothing. ``writer`` and ``heartbeat`` are covered by
tests/integration/nodeagent.
"""
