"""Hollow agents: the real agent with Docker left out, so that a thousand of them fit into a process or two.

Everything between etcd and the engine is the agent's own code: informers, plan, actions, health, memory, reports,
heartbeat. Only :class:`~bench.hollow.engine.HollowEngine` stands where ``nodeagent.engine.Engine`` would, over a
:class:`~bench.hollow.machine.HollowMachine` that keeps containers in memory.

Agents of one process share what :class:`devopsellence.nodeagent.agent.Process` holds: the connection to etcd, the
keepalive stream of their leases, the thread for the disk. A real agent has each for itself. What etcd and the
controller see stays the same but for the number of connections: as many watches, leases, requests and writes.
"""
