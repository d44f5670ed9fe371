"""Requests through a real Envoy: routing, headers, redirects, limits, access log."""

from __future__ import annotations

import re
from contextlib import closing

from devopsellence.nodeagent.envoy.model import Backend, Route, RoutingConfig
from devopsellence.store.keys import EnvironmentRef
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, WebSocket, curl, request, send_raw
from tests.integration.ingress.envoys import REF, EnvoyProcess, certificate, routing
from tests.support.until import until

OTHER = EnvironmentRef("acme", "blog", "production")


def test_host_and_longest_prefix_choose_the_service(envoy: EnvoyProcess) -> None:
    with App("web") as web, App("api") as api, App("docs") as docs, App("blog") as blog:
        shop = RoutingConfig(
            REF,
            ("a.example", "www.a.example"),
            (
                Route("a.example", "/", "web", "http"),
                Route("a.example", "/api", "api", "http"),
                Route("a.example", "/api/docs/", "docs", "http"),
                Route("www.a.example", "/only", "web", "http"),
            ),
            tuple(Backend(app.name, "http", (app.endpoint(),)) for app in (web, api, docs)),
        )
        envoy.apply(shop, routing(blog.endpoint(), host="b.example", ref=OTHER))

        def reached(host: str, path: str) -> str | int:
            answer = request(envoy.listen.http_port, path, host=host)
            return str(answer.app_json["app"]) if answer.status == 200 else answer.status

        reached_apps = {
            (host, path): reached(host, path)
            for host, path in (
                ("a.example", "/"),
                ("a.example", "/apix"),
                ("a.example", "/api"),
                ("a.example", "/api?x=/"),
                ("a.example", "/api/x"),
                ("a.example", "/api/docs"),
                ("a.example", "/api/docs/x"),
                ("a.example", "/api/docsx"),
                ("a.example", "/x/../api/"),
                ("A.Example", "/"),
                ("a.example:8080", "/"),
                ("a.example.", "/"),
                ("www.a.example", "/only/x"),
                ("www.a.example", "/"),
                ("b.example", "/api"),
                ("c.example", "/"),
                ("127.0.0.1", "/"),
            )
        }
        assert list(reached_apps.values()) == [
            "web",
            "web",
            "api",
            "api",
            "api",
            "docs",
            "docs",
            "api",
            "api",
            "web",
            "web",
            "web",
            "web",
            404,
            "blog",
            404,
            404,
        ], reached_apps
        assert envoy.rejected() == {}


def test_hosts_of_any_valid_form_are_served(envoy: EnvoyProcess) -> None:
    hosts = ("a.example", "under_score.example", "xn--bcher-kva.example", "single", f"{'x' * 63}.example", "10.0.0.1")
    with App("web") as web:
        all_hosts = RoutingConfig(
            REF,
            hosts,
            tuple(Route(host, "/", "web", "http") for host in hosts),
            (Backend("web", "http", (web.endpoint(),)),),
            tls=True,
            certificates=dict.fromkeys(hosts, certificate("a.example")),
        )
        envoy.apply(all_hosts)
        assert [request(envoy.listen.http_port, "/", host=host).status for host in hosts] == [200] * len(hosts)
        assert request(envoy.listen.https_port, "/", server_name="a.example").status == 200
    assert envoy.rejected() == {}


def test_forwarded_headers_of_clients_are_replaced(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint()))
        claims = {
            "X_Forwarded_For": "6.6.6.6",
            "X_Forwarded_Proto": "https",
            "X_Forwarded_Host": "evil.example",
            "X_Forwarded_Port": "443",
            "X_Real_IP": "6.6.6.6",
            "Forwarded": "for=6.6.6.6",
            "X_Request_Id": "mine",
            "X_Envoy_Retry_On": "5xx",
            "X_Envoy_Upstream_Rq_Timeout_Ms": "1",
            "X_Envoy_Internal": "true",
        }
        answer = request(envoy.listen.http_port, "/x?a=b", host="a.example:8080", **claims)
        headers = answer.app_json["headers"]
        assert answer.app_json["path"] == "/x?a=b"
        assert headers["host"] == "a.example:8080"
        assert {key: headers[key] for key in headers if key.startswith("x-forwarded")} == {
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-proto": "http",
            "x-forwarded-host": "a.example:8080",
            "x-forwarded-port": str(envoy.listen.http_port),
        }
        assert re.fullmatch("[0-9a-f-]{36}", headers["x-request-id"])
        assert answer.headers["x-request-id"] == headers["x-request-id"]
        assert answer.headers["server"] == "an-app/1"
        assert not {"forwarded", "x-real-ip"} & headers.keys()
        assert not [key for key in [*headers, *answer.headers] if key.startswith("x-envoy")]


def test_envoy_headers_of_clients_are_ignored(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint()))
        with closing(Client(envoy.listen.http_port)) as client:
            client.begin("/slow", X_Envoy_Upstream_Rq_Timeout_Ms="1")
            assert web.entered.acquire(timeout=30)
            for _ in range(20):
                assert request(envoy.listen.http_port, "/").status == 200
            web.release()
            assert client.finish().status == 200


def test_headers_have_limits_and_no_underscores(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint()))
        port = envoy.listen.http_port
        underscored = b"GET / HTTP/1.1\r\nHost: a.example\r\nX_Forwarded_For: 6.6.6.6\r\nConnection: close\r\n\r\n"
        assert b"6.6.6.6" not in (answer := send_raw(port, underscored))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert request(port, "/", x="a" * (59 << 10)).status == 200
        assert request(port, "/", x="a" * (61 << 10)).status == 431
        assert request(port, "/", **{f"x{n}": "" for n in range(101)}).status == 431
        assert send_raw(port, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert send_raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_only_hosts_with_certificate_redirect_to_https(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        both = RoutingConfig(
            REF,
            ("a.example", "b.example"),
            (Route("a.example", "/", "web", "http"), Route("b.example", "/", "web", "http")),
            (Backend("web", "http", (web.endpoint(),)),),
            tls=True,
            redirect=True,
            certificates={"a.example": certificate("a.example")},
            challenges={"a.example": (("token-1", "token-1.print"),), "b.example": (("token-2", "token-2.print"),)},
        )
        envoy.apply(both)
        port, secure = envoy.listen.http_port, envoy.listen.https_port
        redirected = request(port, "/x/y?z=1", host="A.example:80")
        assert (redirected.status, redirected.headers["location"]) == (301, f"https://a.example:{secure}/x/y?z=1")
        posted = request(port, "/x", method="POST", body=b"x")
        assert (posted.status, posted.headers["location"]) == (308, f"https://a.example:{secure}/x")
        assert request(port, "/", host="b.example").app_json["app"] == "web"

        path = "/.well-known/acme-challenge/"
        for host, token in (("a.example", "token-1"), ("b.example", "token-2")):
            answer = request(port, path + token, host=host)
            assert (answer.status, answer.body) == (200, f"{token}.print".encode())
        assert request(port, path + "token-2").status == 301

        headers = request(secure, "/", server_name="a.example").app_json["headers"]
        assert (headers["x-forwarded-proto"], headers["x-forwarded-port"]) == ("https", str(secure))
        assert "strict-transport-security" not in request(secure, "/", server_name="a.example").headers


def test_websockets_and_large_bodies_pass(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint()))
        with closing(WebSocket(envoy.listen.http_port)) as websocket:
            assert websocket.status == 101
            assert websocket.echo("hello") == "web:hello"
        body = b"x" * (5 << 20)
        assert request(envoy.listen.http_port, "/", method="PUT", body=body).app_json["bytes"] == len(body)
        assert send_raw(envoy.listen.http_port, b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").startswith(
            b"HTTP/1.0 200"
        )


def test_https_speaks_http_2(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint(), tls=True, certificates={"a.example": certificate("a.example")}))
        done = curl(envoy.listen.https_port, "a.example", "--http2", "-w", "%{http_version}", "-o", "/dev/null")
        assert done.stdout == "2"


def test_access_log_leaves_out_the_query(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(routing(web.endpoint()), routing(host="b.example", ref=OTHER))
        with closing(Client(envoy.listen.http_port)) as client:
            first = client.request("/x?token=secret", user_agent="tests")
            client.request("/", host="b.example")
        until("both requests in the log", lambda: len(envoy.log()) == 2)
        lines = envoy.log()
    assert lines[0].pop("time").endswith("Z")
    assert lines[0].pop("duration_ms") >= 0
    assert lines[0].pop("bytes_sent") == len(first.body)
    assert lines[0] == {
        "listener": "http",
        "host": "a.example",
        "method": "GET",
        "path": "/x",
        "protocol": "HTTP/1.1",
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "bytes_received": 0,
        "upstream": f"127.0.0.1:{web.port}",
        "attempts": 1,
        "environment": "acme/shop/production",
        "service": "web",
        "request_id": first.headers["x-request-id"],
        "client": "127.0.0.1",
        "user_agent": "tests",
    }
    assert (lines[1]["status"], lines[1]["flags"], lines[1]["environment"]) == (503, "UH", "acme/blog/production")


def test_missing_endpoints_give_a_plain_503(envoy: EnvoyProcess) -> None:
    gone = RoutingConfig(REF, ("b.example",), (Route("b.example", "/", "removed", "http"),), ())
    envoy.apply(routing(host="c.example"), gone)
    for host in ("b.example", "c.example"):
        answer = request(envoy.listen.http_port, "/", host=host)
        assert (answer.status, answer.body) == (503, b"503: nothing answers for this address at the moment\n")
