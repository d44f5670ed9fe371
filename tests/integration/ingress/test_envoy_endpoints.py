"""Endpoints under a real Envoy: cutover, draining, retries, unreachable endpoints."""

from __future__ import annotations

from contextlib import closing

import pytest

from devopsellence.nodeagent.envoy.config import ADMIN_SOCKET
from devopsellence.nodeagent.envoy.model import Endpoint
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, WebSocket, request
from tests.integration.ingress.envoys import EnvoyProcess, admin, routing
from tests.support.ports import free_ports
from tests.support.until import until


def test_draining_endpoint_keeps_current_requests_only(envoy: EnvoyProcess) -> None:
    port = envoy.listen.http_port
    with App("old") as old, App("new") as new:
        at = f"127.0.0.1:{old.port}"
        envoy.apply(routing(old.endpoint()))
        with (
            closing(Client(port)) as waiting,
            closing(Client(port)) as persistent,
            closing(WebSocket(port)) as websocket,
        ):
            assert persistent.request("/").app_json["app"] == "old"
            waiting.begin("/slow")
            for _ in range(2):
                assert old.entered.acquire(timeout=30)

            envoy.apply(routing(new.endpoint(), old.endpoint(draining=True)))
            assert {persistent.request("/").app_json["app"] for _ in range(20)} == {"new"}
            assert {request(port, "/").app_json["app"] for _ in range(20)} == {"new"}
            assert envoy.active()[at] == 2
            assert websocket.echo("still") == "old:still"

            old.release()
            assert waiting.finish().app_json["app"] == "old"
            until("one request less", lambda: envoy.active()[at] == 1)
            envoy.apply(routing(new.endpoint()))
            until("the old endpoint is gone", lambda: at not in envoy.active())
            assert websocket.echo("even now") == "old:even now"
            assert waiting.request("/").app_json["app"] == "new"


def test_drained_envoy_stops_listening_and_finishes_requests(envoy: EnvoyProcess) -> None:
    port = envoy.listen.http_port
    with App("web") as web:
        envoy.apply(routing(web.endpoint()))
        with (
            closing(Client(port)) as persistent,
            closing(Client(port)) as waiting,
            closing(WebSocket(port)) as websocket,
        ):
            assert persistent.request("/").status == 200
            waiting.begin("/slow")
            for _ in range(2):
                assert web.entered.acquire(timeout=30)
            for request in ("/drain_listeners", "/healthcheck/fail"):
                admin(envoy.folder / ADMIN_SOCKET, request, method="POST")
            until("nothing listens", lambda: _refused(port))
            assert persistent.request("/").headers["connection"] == "close"
            assert websocket.echo("still") == "web:still"
            web.release()
            assert waiting.finish().status == 200


def _refused(port: int) -> bool:
    try:
        Client(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_refused_connection_is_retried_on_another_endpoint(envoy: EnvoyProcess) -> None:
    (closed,) = free_ports(1)
    with App("web") as web:
        envoy.apply(routing(web.endpoint(), Endpoint("gone", "127.0.0.1", closed)))
        for method in ("GET", "POST"):
            answers = [request(envoy.listen.http_port, "/", method=method, body=b"x") for _ in range(30)]
            assert [answer.status for answer in answers] == [200] * 30


@pytest.mark.parametrize(("method", "statuses", "times"), [("GET", {503}, 2), ("POST", {503}, 1)])
def test_only_safe_methods_are_retried_after_a_lost_response(
    envoy: EnvoyProcess, method: str, statuses: set[int], times: int
) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint()))
        answer = request(envoy.listen.http_port, "/die", method=method)
        assert answer.status in statuses
        assert web.requests == [f"{method} /die"] * times


def test_single_endpoint_is_always_tried(envoy: EnvoyProcess) -> None:
    (port,) = free_ports(1)
    envoy.apply(routing(Endpoint("web", "127.0.0.1", port)))
    for _ in range(20):
        assert request(envoy.listen.http_port, "/").status == 503
    with App("web", port=port):
        assert request(envoy.listen.http_port, "/").status == 200


def test_requests_fail_while_all_endpoints_drain(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint(draining=True)))
        assert request(envoy.listen.http_port, "/").status == 503
        envoy.apply(routing(web.endpoint()))
        assert request(envoy.listen.http_port, "/").status == 200
