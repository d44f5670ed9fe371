"""Virtual hosts: order of routes, redirects, ACME challenges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from devopsellence.nodeagent.envoy.config import config_files
from devopsellence.nodeagent.envoy.model import ListenerConfig, NodeRouting, Route, RoutingConfig, TlsCertificate
from devopsellence.store.keys import EnvironmentRef
from tests.support.host_certificates import tls_certificate

REF = EnvironmentRef("acme", "shop", "production")
HOST = "a.example"


@pytest.fixture(scope="module")
def certificate() -> TlsCertificate:
    return tls_certificate()


def routed(*prefixes: str) -> RoutingConfig:
    """Return a configuration whose prefixes go to services ``s0``, ``s1``, ..."""
    return RoutingConfig(
        REF, (HOST,), tuple(Route(HOST, prefix, f"s{n}", "http") for n, prefix in enumerate(prefixes)), ()
    )


def routes(config: RoutingConfig, name: str = "http", listen: ListenerConfig | None = None) -> list[dict[str, Any]]:
    files = config_files(NodeRouting((config,)), listen or ListenerConfig(80, 443), "/f")
    (host,) = json.loads(files[f"rds/{name}.json"])["resources"][0]["virtual_hosts"]
    messages: list[dict[str, Any]] = host["routes"]
    return messages


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
def test_longest_prefix_comes_first(prefixes: tuple[str, ...], order: list[tuple[str, str]]) -> None:
    rendered = [
        (
            route["match"].get("path_separated_prefix", route["match"].get("prefix")),
            route["route"]["cluster"].split("/")[-2],
        )
        for route in routes(routed(*prefixes))
    ]
    assert rendered == [target for target in order for _ in ("websockets", "safe", "all others")]


def test_challenges_come_before_the_redirect_to_https(certificate: TlsCertificate) -> None:
    secure = replace(
        routed("/"), tls=True, redirect=True, certificates={HOST: certificate}, challenges={HOST: (("t", "t.print"),)}
    )
    first, safe, others = routes(secure)
    assert first["match"] == {"path": "/.well-known/acme-challenge/t"}
    assert first["direct_response"] == {"status": 200, "body": {"inline_string": "t.print"}}
    assert safe["redirect"] == {"https_redirect": True, "host_redirect": HOST}
    assert others["redirect"]["response_code"] == "PERMANENT_REDIRECT"


REDIRECTS = {
    "with a certificate": ({}, ListenerConfig(80, 443), True),
    "to another port": ({}, ListenerConfig(80, 8443), True),
    "not asked for": ({"redirect": False}, ListenerConfig(80, 443), False),
    "no certificate": ({"certificates": {}}, ListenerConfig(80, 443), False),
    "no HTTPS": ({"tls": False}, ListenerConfig(80, 443), False),
    "nothing listens there": ({}, ListenerConfig(80, 0), False),
}


@pytest.mark.parametrize("case", REDIRECTS)
def test_only_hosts_served_by_https_redirect(case: str, certificate: TlsCertificate) -> None:
    changes, listen, redirects = REDIRECTS[case]
    secure = replace(routed("/"), tls=True, redirect=True, certificates={HOST: certificate})
    rendered = routes(replace(secure, **changes), listen=listen)  # type: ignore[arg-type]
    assert ["redirect" in route for route in rendered] == ([True, True] if redirects else [False] * 3)
    assert [route["redirect"].get("port_redirect") for route in rendered if redirects] == (
        [listen.https_port if listen.https_port != 443 else None] * 2 if redirects else []
    )
