"""A backend's endpoints under a real Envoy: a cutover, and endpoints that do not answer."""

from __future__ import annotations

from contextlib import closing

import pytest

from devopsellence.nodeagent.envoy.config import ADMIN_SOCKET
from devopsellence.nodeagent.envoy.model import Endpoint
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, WebSocket, ask
from tests.integration.ingress.envoys import Envoy, admin, site
from tests.support.ports import free_ports
from tests.support.until import until


def test_a_draining_endpoint_ends_what_it_has_and_gets_nothing_new(envoy: Envoy) -> None:
    port = envoy.listen.http_port
    with App("old") as old, App("new") as new:
        at = f"127.0.0.1:{old.port}"
        envoy.apply(site(old.endpoint()))
        with (
            closing(Client(port)) as waiting,
            closing(Client(port)) as kept,
            closing(WebSocket(port)) as websocket,
        ):
            assert kept.ask("/").said["app"] == "old"
            waiting.begin("/slow")
            for _ in range(2):
                assert old.entered.acquire(timeout=30)

            envoy.apply(site(new.endpoint(), old.endpoint(draining=True)))
            assert {kept.ask("/").said["app"] for _ in range(20)} == {"new"}
            assert {ask(port, "/").said["app"] for _ in range(20)} == {"new"}
            assert envoy.active()[at] == 2
            assert websocket.echo("still") == "old:still"

            old.release()
            assert waiting.finish().said["app"] == "old"
            until("one request less", lambda: envoy.active()[at] == 1)
            envoy.apply(site(new.endpoint()))
            until("the old endpoint is gone", lambda: at not in envoy.active())
            assert websocket.echo("even now") == "old:even now"
            assert waiting.ask("/").said["app"] == "new"


def test_an_envoy_that_is_to_go_listens_no_more_and_lets_its_clients_end(envoy: Envoy) -> None:
    port = envoy.listen.http_port
    with App("web") as web:
        envoy.apply(site(web.endpoint()))
        with closing(Client(port)) as kept, closing(Client(port)) as waiting, closing(WebSocket(port)) as websocket:
            assert kept.ask("/").status == 200
            waiting.begin("/slow")
            for _ in range(2):
                assert web.entered.acquire(timeout=30)
            for request in ("/drain_listeners", "/healthcheck/fail"):
                admin(envoy.folder / ADMIN_SOCKET, request, method="POST")
            until("nothing listens", lambda: _refused(port))
            assert kept.ask("/").headers["connection"] == "close"
            assert websocket.echo("still") == "web:still"
            web.release()
            assert waiting.finish().status == 200


def _refused(port: int) -> bool:
    try:
        Client(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_request_that_cannot_connect_goes_to_another_endpoint(envoy: Envoy) -> None:
    (closed,) = free_ports(1)
    with App("web") as web:
        envoy.apply(site(web.endpoint(), Endpoint("gone", "127.0.0.1", closed)))
        for method in ("GET", "POST"):
            answers = [ask(envoy.listen.http_port, "/", method=method, body=b"x") for _ in range(30)]
            assert [answer.status for answer in answers] == [200] * 30


@pytest.mark.parametrize(("method", "statuses", "times"), [("GET", {503}, 2), ("POST", {503}, 1)])
def test_only_what_changes_nothing_is_sent_twice(envoy: Envoy, method: str, statuses: set[int], times: int) -> None:
    with App("web") as web:
        envoy.apply(site(web.endpoint()))
        answer = ask(envoy.listen.http_port, "/die", method=method)
        assert answer.status in statuses
        assert web.asked == [f"{method} /die"] * times


def test_the_only_endpoint_is_always_tried(envoy: Envoy) -> None:
    (port,) = free_ports(1)
    envoy.apply(site(Endpoint("web", "127.0.0.1", port)))
    for _ in range(20):
        assert ask(envoy.listen.http_port, "/").status == 503
    with App("web", port=port):
        assert ask(envoy.listen.http_port, "/").status == 200


def test_endpoints_that_are_all_draining_answer_nothing_new(envoy: Envoy) -> None:
    with App("web") as web:
        envoy.apply(site(web.endpoint(draining=True)))
        assert ask(envoy.listen.http_port, "/").status == 503
        envoy.apply(site(web.endpoint()))
        assert ask(envoy.listen.http_port, "/").status == 200
