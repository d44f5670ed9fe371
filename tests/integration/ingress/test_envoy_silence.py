"""Connections that ask for nothing, against a real Envoy: they keep nobody else out."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from devopsellence.agent_identity import server_name
from devopsellence.nodeagent.envoy.model import RouterPeer
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, request
from tests.integration.ingress.envoys import EnvoyProcess, certificate, routing
from tests.integration.ingress.silent_clients import silent_clients
from tests.support.until import until

SILENT = 20_000
NEAR, FAR = server_name("uid-near"), server_name("uid-far")


@pytest.mark.parametrize("listener", ["http", "https"])
def test_silent_connections_are_closed_and_requests_served(short_path: Path, listener: str) -> None:
    with EnvoyProcess(short_path / "one") as envoy, App("web") as web:
        envoy.apply(routing(web.endpoint(), tls=True, certificates={"a.example": certificate("a.example")}))
        port = envoy.listen.http_port if listener == "http" else envoy.listen.https_port
        with ExitStack() as stack:
            kept = stack.enter_context(closing(Client(port, server_name="a.example" if listener == "https" else "")))
            assert kept.request("/").status == 200
            clients = stack.enter_context(silent_clients(port, SILENT))
            clients.wait("open")
            clients.wait("closed")
            assert [request(envoy.listen.http_port, "/").status for _ in range(50)] == [200] * 50
            assert [request(envoy.listen.https_port, "/", server_name="a.example").status for _ in range(50)] == (
                [200] * 50
            )
            assert kept.request("/").status == 200, "a connection that is in use stays"


def test_silent_connections_to_the_peer_listener_keep_no_peer_out(short_path: Path) -> None:
    with (
        EnvoyProcess(short_path / "one", peer_name=NEAR) as near,
        EnvoyProcess(short_path / "two", peer_name=FAR) as far,
        App("there") as there,
    ):
        far.apply(routing(there.endpoint()))
        near.apply(routing(peers=(RouterPeer("far", FAR, "127.0.0.1", far.listen.peer_port),)))
        with silent_clients(far.listen.peer_port, SILENT) as clients:
            clients.wait("open")
            clients.wait("closed")
            assert [request(near.listen.http_port, "/").status for _ in range(50)] == [200] * 50


def test_idle_connections_make_room_when_there_are_many(short_path: Path) -> None:
    with EnvoyProcess(short_path / "one", heap_bytes=56 << 20) as envoy, App("web") as web, ExitStack() as stack:
        envoy.apply(routing(web.endpoint()))
        # Each has sent a request, so nothing but its idle time tells it from others.
        for _ in range(2500):
            client = stack.enter_context(closing(Client(envoy.listen.http_port)))
            assert client.request("/").status == 200
        until("the longest idle are closed", lambda: active(envoy) < 2000, seconds=60)
        assert active(envoy) > 500, "no more than needed"
        assert request(envoy.listen.http_port, "/").status == 200


def active(envoy: EnvoyProcess) -> int:
    """Return the number of connections to the listener for HTTP."""
    return int(envoy.admin("/stats", filter="^http.http.downstream_cx_active$").split(":")[1])
