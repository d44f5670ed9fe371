"""Tunnels through another machine, made by the system's ``ssh``.

The host's name, the folder of the sockets, and one kept connection for each host with its forwarded sockets. No
addresses of a cluster, and nothing about certificates (``cli.reach``).
``tunnel`` is covered by tests/integration/gateway/test_ssh.py.
"""
