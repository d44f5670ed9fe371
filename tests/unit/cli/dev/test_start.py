"""Record of the local cluster's node."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.dev.start import registered
from devopsellence.cli.dev.state import DevState

STATE = DevState("local", "u1", "unix:///run/docker.sock", client_port=1, peer_port=2)


def test_new_node_has_default_labels_and_saved_uid() -> None:
    node = registered(None, STATE, None)
    assert (node.name, node.uid, list(node.labels)) == ("local", "u1", ["web", "worker"])
    assert node.registered_at.seconds


def test_manual_changes_of_the_node_are_kept() -> None:
    before = Node(name="local", uid="u1", labels=["web"], cordoned=True)
    assert registered(before, STATE, None) == before


def test_labels_option_replaces_labels() -> None:
    before = Node(name="local", uid="u1", labels=["web"])
    assert list(registered(before, STATE, ("worker",)).labels) == ["worker"]
