"""The agent's gRPC API (``agent.proto``): logs, exec, tasks, images and diagnosis of a node, for operators and peers.

Here belong authentication, validation of requests, and streams in bounded memory. Nothing here changes the desired
state of a node: only etcd does. Calls to the engine itself belong in ``docker``. Calls as a whole are covered by
tests/integration/agentapi and tests/integration/images.
"""
