"""The command line: parse, call, render.

Commands live in ``commands``; what they share is ``context`` (which environment, which etcd), ``write`` (read, change,
write as one transaction), ``output`` (text, JSON, errors), ``view`` (messages to rows, no IO) and ``release`` (the
steps of a deploy). Decisions that others need too belong in the core, not here; nothing here imports the controller or
the agent. ``main`` starts without importing gRPC, Docker, pydantic or rich: a command's module is imported when that
command runs.
"""
