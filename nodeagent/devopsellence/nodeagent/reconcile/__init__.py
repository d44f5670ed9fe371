"""The reconcile loop of the agent: observe Docker, call the planner, carry out the actions, record the results.

Holds the loop, the action executor and the slots that bound parallel work. Decisions belong in ``plan``; calls of the
Docker SDK belong in ``docker``.
"""
