"""Backends and their endpoints in Envoy's form."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from devopsellence.nodeagent.envoy import config
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Listen, PeerTls, RouterPeer, Routing, Site
from devopsellence.store.keys import EnvironmentRef

ENV = EnvironmentRef("acme", "shop", "production")
PEERED = Listen(80, 443, 7444, PeerTls("/ca", "/cert", "/key"))
PEER = RouterPeer("n2", "ab.node.devopsellence.internal", "10.0.0.2", 7444)


def endpoints_file(backend: Backend, *peers: RouterPeer, listen: Listen = PEERED) -> bytes:
    files = config.files(Routing((Site(ENV, ("a.example",), (), (backend,), peers=peers),)), listen, "/f")
    (found,) = (content for path, content in files.items() if path.startswith("eds/"))
    return found


def groups(content: bytes) -> dict[int, list[dict[str, Any]]]:
    return {each["priority"]: each["lb_endpoints"] for each in json.loads(content)["resources"][0]["endpoints"]}


def here(content: bytes) -> tuple[Endpoint, ...]:
    """This node's own endpoints, as a file says them."""
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
def test_endpoints_are_told_with_their_containers(
    endpoints: tuple[Endpoint, ...], peers: tuple[RouterPeer, ...]
) -> None:
    backend = Backend("web", "http", endpoints)
    content = endpoints_file(backend, *peers)
    assert here(content) == endpoints
    assert json.loads(content)["resources"][0]["cluster_name"] == config.cluster_name(ENV, "web", "http")


def test_peers_come_after_whoever_is_here_and_by_tls() -> None:
    found = groups(endpoints_file(Backend("web", "http", (Endpoint("c1", "172.18.0.2", 3000),)), PEER))
    assert [each["endpoint"]["hostname"] for each in found[1]] == [PEER.server_name]
    local, other = found[0][0]["metadata"]["filter_metadata"], found[1][0]["metadata"]["filter_metadata"]
    assert (local["envoy.lb"], other["envoy.lb"]) == ({"where": "local"}, {"where": "peer"})
    assert "envoy.transport_socket_match" not in local
    assert other["envoy.transport_socket_match"] == {"where": "peer"}


@pytest.mark.parametrize(
    ("peer", "listen"),
    [(replace(PEER, address="node2.internal"), PEERED), (PEER, Listen(80, 443))],
    ids=["a-name", "no-certificate-of-the-node"],
)
def test_peers_that_cannot_be_asked_are_left_out(peer: RouterPeer, listen: Listen) -> None:
    content = endpoints_file(Backend("web", "http", ()), peer, listen=listen)
    assert groups(content) == {0: []}
    assert "node2" not in content.decode()
