"""Images on this node: layers received and sent, pulls from peers, the ledger of use, garbage collection.

Nothing about containers. Building images belongs to the CLI. ``gc`` and ``peer_pull`` are covered by
tests/integration/images.
"""
