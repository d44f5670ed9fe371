"""Clusters and endpoints files: local endpoints, draining endpoints, peers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from devopsellence.nodeagent.envoy.clusters import cluster_name
from devopsellence.nodeagent.envoy.config import config_files
from devopsellence.nodeagent.envoy.model import (
    Backend,
    Endpoint,
    ListenerConfig,
    NodeRouting,
    PeerTls,
    RouterPeer,
    RoutingConfig,
)
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
PEERED = ListenerConfig(80, 443, 7444, PeerTls("CA", "CERTIFICATE", "KEY"))
PEER = RouterPeer("n2", "ab.node.devopsellence.internal", "10.0.0.2", 7444)


def render_endpoints(backend: Backend, *peers: RouterPeer, listen: ListenerConfig = PEERED) -> bytes:
    files = config_files(NodeRouting((RoutingConfig(REF, ("a.example",), (), (backend,), peers=peers),)), listen, "/f")
    (endpoints,) = (content for path, content in files.items() if path.startswith("eds/"))
    return endpoints


def groups(content: bytes) -> dict[int, list[dict[str, Any]]]:
    return {group["priority"]: group["lb_endpoints"] for group in json.loads(content)["resources"][0]["endpoints"]}


def local_endpoints(content: bytes) -> tuple[Endpoint, ...]:
    """Return this node's own endpoints of an endpoints file."""
    return tuple(
        Endpoint(
            container=entry["metadata"]["filter_metadata"]["devopsellence"]["container"],
            address=entry["endpoint"]["address"]["socket_address"]["address"],
            port=entry["endpoint"]["address"]["socket_address"]["port_value"],
            draining=entry["health_status"] == "DRAINING",
        )
        for entry in groups(content).get(0, [])
    )


@pytest.mark.parametrize(
    "endpoints",
    [
        (),
        (Endpoint("c1", "172.18.0.2", 3000),),
        (Endpoint("c1", "172.18.0.2", 3000, draining=True), Endpoint("c2", "fd00::2", 80)),
    ],
    ids=["none", "one", "two"],
)
@pytest.mark.parametrize("peers", [(), (PEER,)], ids=["alone", "with-a-peer"])
def test_endpoints_file_names_containers(endpoints: tuple[Endpoint, ...], peers: tuple[RouterPeer, ...]) -> None:
    backend = Backend("web", "http", endpoints)
    content = render_endpoints(backend, *peers)
    assert local_endpoints(content) == endpoints
    assert json.loads(content)["resources"][0]["cluster_name"] == cluster_name(REF, "web", "http")


def test_peers_have_lower_priority_and_use_tls() -> None:
    by_priority = groups(render_endpoints(Backend("web", "http", (Endpoint("c1", "172.18.0.2", 3000),)), PEER))
    assert [peer["endpoint"]["hostname"] for peer in by_priority[1]] == [PEER.server_name]
    local, other = by_priority[0][0]["metadata"]["filter_metadata"], by_priority[1][0]["metadata"]["filter_metadata"]
    assert (local["envoy.lb"], other["envoy.lb"]) == ({"where": "local"}, {"where": "peer"})
    assert "envoy.transport_socket_match" not in local
    assert other["envoy.transport_socket_match"] == {"where": "peer"}


@pytest.mark.parametrize(
    ("peer", "listen"),
    [(replace(PEER, address="node2.internal"), PEERED), (PEER, ListenerConfig(80, 443))],
    ids=["a-name", "no-certificate-of-the-node"],
)
def test_peers_without_ip_address_or_certificate_are_left_out(peer: RouterPeer, listen: ListenerConfig) -> None:
    content = render_endpoints(Backend("web", "http", ()), peer, listen=listen)
    assert groups(content) == {0: []}
    assert "node2" not in content.decode()
