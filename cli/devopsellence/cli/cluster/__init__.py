"""Setting up a cluster on machines of one's own: its authority, everybody's certificates, etcd's users.

``folder`` is where an operator keeps the authority and what it issued, ``issue`` makes and renews that, ``programs``
says with what etcd, controllers and agents are started, ``access`` is how root reaches the new etcd. Nothing here
reaches another machine: files are made here, and people (or their tools) carry them there.
"""
