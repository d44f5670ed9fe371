"""The agent's gRPC API: what an operator asks of one node directly (``agent.proto``).

Here belongs what turns a call into answers: who may call, what a request must hold, streams with bounded memory.
Nothing here changes what the node should run; that is only ever written to etcd. What the engine does stays in
``docker.py`` and ``streams.py``, the only importers of its SDK.
"""
