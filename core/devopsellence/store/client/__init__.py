"""Client of etcd's gRPC API: channel, calls and streams, with the errors of ``store.errors``.

``connection`` keeps the channel and authenticates, ``stream`` is one bidirectional stream, ``watch_stream`` carries all
watches of a connection on one of them, ``rpc`` converts messages, ``error_mapping`` explains failed calls.

May not go in here: keys and records of this project. All but ``error_mapping`` and ``rpc`` is covered by
tests/integration/store.
"""
