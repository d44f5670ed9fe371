"""Access to etcd for all commands: concurrent reads, optimistic transactions, snapshots of an environment.

``watcher`` keeps a snapshot up to date, ``author`` names the author of what is written, ``rights`` checks the
operator's access before a command begins. Display belongs in ``render``; transactions of a single command stay with
the command's package and use ``transaction`` for conflicts and events.

Reads and writes need an etcd: covered by tests/integration/cli (test_publish.py, test_watcher.py, test_nodes.py),
rights by tests/integration/gateway/test_commands.py.
"""
