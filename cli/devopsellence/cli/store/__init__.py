"""Access to etcd for all commands: concurrent reads, optimistic transactions, snapshots of an environment.

``watcher`` keeps a snapshot up to date. Display belongs in ``render``; transactions of a single command stay with the
command's package and use ``transaction`` for conflicts and events.

Reads and writes need an etcd: covered by tests/integration/cli (test_publish.py, test_watcher.py, test_nodes.py).
"""
