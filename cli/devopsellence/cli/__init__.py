"""The command line: parse, call, render.

``commands`` holds the commands; ``context`` finds the environment and etcd; ``output`` prints text, JSON and errors,
with control characters shown as escapes by ``untrusted``.
``store`` reads and writes etcd, ``render`` turns records into text and JSON, ``deploy``, ``images``, ``nodes``,
``agent``, ``secrets``, ``ingress``, ``doctor``, ``cluster`` and ``dev`` do the work of the commands.

No imports of the controller or the agent. Decisions needed by another program belong in the core. ``main`` starts
without importing gRPC, Docker, pydantic or rich: the module of a command is imported when the command runs.

``context`` and ``options`` are covered by tests/integration/cli.
"""
