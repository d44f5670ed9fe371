"""Virtual hosts: the order of routes, redirects and challenges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from devopsellence.nodeagent.envoy import config
from devopsellence.nodeagent.envoy.model import Listen, Route, Routing, Site, TlsCertificate
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.ingress.tls import tls_certificate

ENV = EnvironmentRef("acme", "shop", "production")
HOST = "a.example"


@pytest.fixture(scope="module")
def certificate() -> TlsCertificate:
    return tls_certificate()


def site(*prefixes: str) -> Site:
    """Each prefix goes to a service with a name that says its place."""
    return Site(ENV, (HOST,), tuple(Route(HOST, prefix, f"s{n}", "http") for n, prefix in enumerate(prefixes)), ())


def routes(of: Site, name: str = "http", listen: Listen | None = None) -> list[dict[str, Any]]:
    files = config.files(Routing((of,)), listen or Listen(80, 443), "/f")
    (host,) = json.loads(files[f"rds/{name}.json"])["resources"][0]["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


@pytest.mark.parametrize(
    ("prefixes", "order"),
    [
        (("/",), [("/", "s0")]),
        (("/", "/a", "/a/b"), [("/a/b", "s2"), ("/a", "s1"), ("/", "s0")]),
        (("/b", "/a"), [("/a", "s1"), ("/b", "s0")]),
        (("/a/", "/a"), [("/a", "s1")]),
        (("/a/",), [("/a", "s0")]),
        (("//", "/"), [("/", "s1")]),
        ((), []),
    ],
    ids=["all", "longest-first", "equally-long", "with-and-without-slash", "slash-at-the-end", "two-slashes", "none"],
)
def test_the_longest_prefix_comes_first(prefixes: tuple[str, ...], order: list[tuple[str, str]]) -> None:
    found = routes(site(*prefixes))
    seen = [
        (
            each["match"].get("path_separated_prefix", each["match"].get("prefix")),
            each["route"]["cluster"].split("/")[-2],
        )
        for each in found
    ]
    assert seen == [each for each in order for _ in ("websockets", "safe", "all others")]


def test_challenges_come_before_the_redirect(certificate: TlsCertificate) -> None:
    secure = replace(
        site("/"), tls=True, redirect=True, certificates={HOST: certificate}, challenges={HOST: (("t", "t.print"),)}
    )
    first, safe, others = routes(secure)
    assert first["match"] == {"path": "/.well-known/acme-challenge/t"}
    assert first["direct_response"] == {"status": 200, "body": {"inline_string": "t.print"}}
    assert safe["redirect"] == {"https_redirect": True, "host_redirect": HOST}
    assert others["redirect"]["response_code"] == "PERMANENT_REDIRECT"


REDIRECTS = {
    "with a certificate": ({}, Listen(80, 443), True),
    "to another port": ({}, Listen(80, 8443), True),
    "not asked for": ({"redirect": False}, Listen(80, 443), False),
    "no certificate": ({"certificates": {}}, Listen(80, 443), False),
    "no HTTPS": ({"tls": False}, Listen(80, 443), False),
    "nothing listens there": ({}, Listen(80, 0), False),
}


@pytest.mark.parametrize("case", REDIRECTS)
def test_only_what_https_serves_is_led_there(case: str, certificate: TlsCertificate) -> None:
    changes, listen, leads = REDIRECTS[case]
    secure = replace(site("/"), tls=True, redirect=True, certificates={HOST: certificate})
    found = routes(replace(secure, **changes), listen=listen)  # type: ignore[arg-type]
    assert ["redirect" in each for each in found] == ([True, True] if leads else [False] * 3)
    assert [each["redirect"].get("port_redirect") for each in found if leads] == (
        [listen.https_port if listen.https_port != 443 else None] * 2 if leads else []
    )
