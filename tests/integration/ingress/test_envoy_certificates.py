"""Certificates that come, change and go under a real Envoy, and the connections that live meanwhile."""

from __future__ import annotations

import ssl
from contextlib import closing
from dataclasses import replace

import pytest
from cryptography import x509

from devopsellence.nodeagent.ingress.model import Backend, Route, Site, TlsCertificate
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, ask
from tests.integration.ingress.envoys import ENV, Envoy, certificate
from tests.support.until import until


def secure_site(app: App, certificates: dict[str, TlsCertificate], *hosts: str) -> Site:
    return Site(
        ENV,
        hosts,
        tuple(Route(host, "/", "web", "http") for host in hosts),
        (Backend("web", "http", (app.endpoint(),)),),
        tls=True,
        redirect=True,
        certificates=certificates,
    )


def serial(of: TlsCertificate) -> int:
    return x509.load_pem_x509_certificate(of.chain_pem.encode()).serial_number


def test_certificates_come_and_change_without_touching_a_connection(envoy: Envoy) -> None:
    hosts = ("a.example", "b.example", "c.example")
    first, second, other = certificate("a.example"), certificate("a.example"), certificate("b.example")
    port = envoy.listen.https_port
    with App("web") as web:
        start = secure_site(web, {"a.example": first}, *hosts)
        envoy.apply(start)
        with closing(Client(port, server_name="a.example")) as kept:
            assert kept.ask("/").status == 200
            assert kept.serial() == serial(first)

            kept.begin("/slow")
            assert web.entered.acquire(timeout=30)
            envoy.apply(replace(start, certificates={"a.example": first, "b.example": other}))
            envoy.apply(replace(start, certificates={"a.example": second, "b.example": other}))
            for host, wanted in (("a.example", second), ("b.example", other)):
                with closing(Client(port, server_name=host)) as new:
                    assert new.ask("/", host=host).status == 200
                    assert new.serial() == serial(wanted)
            web.release()
            assert kept.finish().status == 200
            assert kept.ask("/").status == 200

            envoy.apply(replace(start, certificates={"a.example": second}))
            assert kept.ask("/").status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Client(port, server_name="c.example")
    assert envoy.rejected() == {}


def test_a_certificate_that_is_none_harms_no_other_host(envoy: Envoy) -> None:
    port = envoy.listen.https_port
    good, other = certificate("a.example"), certificate("b.example")
    broken = TlsCertificate("", good.chain_pem, other.key_pem)
    hosts = ("a.example", "b.example")
    with App("web") as web:
        start = secure_site(web, {"a.example": good}, *hosts)
        envoy.apply(start)
        envoy.write(replace(start, certificates={"a.example": good, "b.example": broken}))
        until("the update is refused", lambda: any("b.example" in name for name in envoy.rejected()))
        assert ask(port, "/", server_name="a.example").status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Client(port, server_name="b.example")

        envoy.apply(replace(start, certificates={"a.example": good, "b.example": other}))
        assert ask(port, "/", server_name="b.example", host="b.example").status == 200
        assert ask(port, "/", server_name="a.example").status == 200


def test_two_hundred_hosts_each_with_its_own_certificate(envoy: Envoy) -> None:
    hosts = tuple(f"h{number}.example" for number in range(200))
    with App("web") as web, App("api") as api:
        one = certificate(*hosts)
        many = Site(
            ENV,
            hosts,
            tuple(Route(host, *to, "http") for host in hosts for to in (("/", "web"), ("/api", "api"))),
            tuple(Backend(app.name, "http", (app.endpoint(),)) for app in (web, api)),
            tls=True,
            certificates=dict.fromkeys(hosts, one),
        )
        envoy.apply(many)
        for host in hosts[::33]:
            answer = ask(envoy.listen.https_port, "/api/x", server_name=host, host=host)
            assert answer.said["app"] == "api"
        envoy.apply(replace(many, certificates={**many.certificates, hosts[0]: certificate(hosts[0])}))
        assert ask(envoy.listen.https_port, "/", server_name=hosts[0], host=hosts[0]).said["app"] == "web"
    assert envoy.rejected() == {}


def test_old_tls_is_refused(envoy: Envoy) -> None:
    with App("web") as web:
        envoy.apply(secure_site(web, {"a.example": certificate("a.example")}, "a.example"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with closing(Client(envoy.listen.https_port).socket) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(raw, server_hostname="a.example")
