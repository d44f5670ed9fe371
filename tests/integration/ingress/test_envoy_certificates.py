"""Certificates added, renewed and removed under a real Envoy with open connections."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from dataclasses import replace
from typing import Final

import pytest
from cryptography import x509

from devopsellence.nodeagent.envoy.model import Backend, Route, RoutingConfig, TlsCertificate
from devopsellence.nodeagent.ingress.crypto_main import check_certificate
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, WebSocket, curl, request
from tests.integration.ingress.envoys import REF, EnvoyProcess, certificate
from tests.support.host_certificates import ACCEPTED_KEYS, signed

#: curl(1), exit codes.
_TLS_FAILED: Final = 35


def secure_routing(app: App, certificates: dict[str, TlsCertificate], *hosts: str) -> RoutingConfig:
    return RoutingConfig(
        REF,
        hosts,
        tuple(Route(host, "/", "web", "http") for host in hosts),
        (Backend("web", "http", (app.endpoint(),)),),
        tls=True,
        redirect=True,
        certificates=certificates,
    )


def serial(certificate: TlsCertificate) -> int:
    return x509.load_pem_x509_certificate(certificate.chain_pem.encode()).serial_number


def test_certificate_changes_leave_connections_open(envoy: EnvoyProcess) -> None:
    hosts = ("a.example", "b.example", "c.example")
    first, second, other = certificate("a.example"), certificate("a.example"), certificate("b.example")
    port = envoy.listen.https_port
    with App("web") as web:
        start = secure_routing(web, {"a.example": first}, *hosts)
        envoy.apply(start)
        with (
            closing(Client(port, server_name="a.example")) as persistent,
            closing(WebSocket(port, secure=True)) as websocket,
        ):
            assert persistent.serial() == serial(first)
            persistent.begin("/slow")
            for _ in range(2):
                assert web.entered.acquire(timeout=30)

            envoy.apply(replace(start, certificates={"a.example": first, "b.example": other}))
            envoy.apply(replace(start, certificates={"a.example": second, "b.example": other}))
            for host, expected in (("a.example", second), ("b.example", other)):
                with closing(Client(port, server_name=host)) as new:
                    assert new.request("/", host=host).status == 200
                    assert new.serial() == serial(expected)
            web.release()
            assert persistent.finish().status == 200
            assert persistent.request("/").status == 200
            assert websocket.echo("hello") == "web:hello"

            envoy.apply(replace(start, certificates={"a.example": second}))
            assert persistent.request("/").status == 200
            assert websocket.echo("hello") == "web:hello"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Client(port, server_name="c.example")
    assert envoy.rejected() == {}


@pytest.mark.parametrize("kind", ACCEPTED_KEYS)
def test_accepted_keys_are_served(envoy: EnvoyProcess, kind: str) -> None:
    served = TlsCertificate(*signed(ACCEPTED_KEYS[kind](), "a.example"))
    check_certificate(served.chain_pem, served.key_pem)
    with App("web") as web:
        envoy.apply(secure_routing(web, {"a.example": served}, "a.example"))
        context = ssl.create_default_context(cadata=served.chain_pem)
        with (
            socket.create_connection(("127.0.0.1", envoy.listen.https_port), 30) as plain,
            context.wrap_socket(plain, server_hostname="a.example") as secured,
        ):
            assert secured.version() == "TLSv1.3"
    assert envoy.rejected() == {}


def test_two_hundred_hosts_with_certificates(envoy: EnvoyProcess) -> None:
    hosts = tuple(f"h{number}.example" for number in range(200))
    with App("web") as web, App("api") as api:
        one = certificate(*hosts)
        many = RoutingConfig(
            REF,
            hosts,
            tuple(Route(host, *to, "http") for host in hosts for to in (("/", "web"), ("/api", "api"))),
            tuple(Backend(app.name, "http", (app.endpoint(),)) for app in (web, api)),
            tls=True,
            certificates=dict.fromkeys(hosts, one),
        )
        envoy.apply(many)
        assert envoy.inotify_instances() < 16, "a user has 128 of them on the whole machine"
        for host in hosts[::33]:
            answer = request(envoy.listen.https_port, "/api/x", server_name=host, host=host)
            assert answer.app_json["app"] == "api"
        envoy.apply(replace(many, certificates={**many.certificates, hosts[0]: certificate(hosts[0])}))
        assert request(envoy.listen.https_port, "/", server_name=hosts[0], host=hosts[0]).app_json["app"] == "web"
    assert envoy.rejected() == {}


def test_tls_below_1_2_is_refused(envoy: EnvoyProcess) -> None:
    with App("web") as web:
        envoy.apply(secure_routing(web, {"a.example": certificate("a.example")}, "a.example"))
        port, old = envoy.listen.https_port, ("--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0")
        assert curl(port, "a.example", *old, check=False).returncode == _TLS_FAILED
        assert curl(port, "a.example").stdout
