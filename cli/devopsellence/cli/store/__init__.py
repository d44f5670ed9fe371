"""Reading and writing of etcd for the commands: reader, transaction, snapshot, watcher, releases.

The only package of the CLI that opens a transaction. Presentation belongs in ``render``.
"""
