"""Hollow agents: the real agent with Docker left out, so that a thousand of them fit into a process or two.

Everything between etcd and the engine is the code of the real agent: informers, plan, actions, health, restart history,
status, heartbeat. Only :class:`~bench.hollow.engine.HollowEngine` replaces the real engine, over a
:class:`~bench.hollow.machine.HollowMachine` that keeps containers in memory.

Agents of one process share what :class:`devopsellence.nodeagent.agent.Process` holds: the connection to etcd, the
keepalive stream of their leases, the thread for the disk. A real agent shares nothing. For etcd and
the controller only the number of connections differs: watches, leases, requests and writes are the same.
"""
