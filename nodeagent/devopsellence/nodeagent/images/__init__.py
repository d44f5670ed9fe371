"""Images on this node: layers received and sent, pulls from peers, the ledger of use, garbage collection.

Nothing about containers. Building images belongs to the CLI. ``gc``, ``peer_pull`` and ``incoming`` are covered by
tests/integration/images, ``archive_content`` by tests/unit/nodeagent/images/test_archive.py.
"""
