"""Clients of the agent API: logs, exec, one-off tasks, node diagnosis.

``client`` connects, ``locate`` reads the environment's agents, ``select`` chooses among the agents. ``logs`` prints the
merged (``log_merge``) streams (``log_stream``) of nodes; ``exec`` runs a command in a ``session`` with local
``stdio``, ``terminal`` and ``signals``; ``diagnose`` formats the health of a node. Nothing here changes the desired
state of a node.

``exec``, ``session``, ``signals``, ``terminal``, ``logs``, ``locate`` and ``diagnose`` are covered by
tests/integration/remote.
"""
