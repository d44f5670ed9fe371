"""What Envoy is given: which files there are, and what changes in them with what."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Final

import pytest

from devopsellence.nodeagent.envoy import config
from devopsellence.nodeagent.envoy.model import (
    Backend,
    Endpoint,
    Listen,
    PeerTls,
    Route,
    RouterPeer,
    Routing,
    Site,
    TlsCertificate,
)
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.ingress.tls import tls_certificate

ENV: Final = EnvironmentRef("acme", "shop", "production")
OTHER: Final = EnvironmentRef("acme", "blog", "production")
LISTEN: Final = Listen(80, 443, 7444, PeerTls("/ca", "/cert", "/key"))
ONE: Final = Endpoint("c1", "172.18.0.2", 3000)
TWO: Final = Endpoint("c2", "172.18.0.3", 3000)
PEER: Final = RouterPeer("n2", "ab.node.devopsellence.internal", "10.0.0.2", 7444)


@pytest.fixture(scope="module")
def certificate() -> TlsCertificate:
    return tls_certificate()


def site(*endpoints: Endpoint, **more: Any) -> Site:
    made = Site(
        ENV, ("a.example",), (Route("a.example", "/", "web", "http"),), (Backend("web", "http", endpoints or (ONE,)),)
    )
    return replace(made, **more)


def made(*sites: Site, listen: Listen = LISTEN) -> dict[str, bytes]:
    return config.files(Routing(sites), listen, "/f")


def resources(files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(files[path])["resources"]
    return found


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Paths, with eds/ and sds/ for what is in those."""
    paths = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    return sorted({path.partition("/")[0] + "/" if path[:4] in ("eds/", "sds/") else path for path in paths})


def test_the_same_routing_gives_the_same_files_with_the_same_versions() -> None:
    assert made(site(ONE, TWO)) == made(site(TWO, ONE))
    versions = {json.loads(content)["version_info"] for content in made(site()).values()}
    assert all(re.fullmatch("[0-9a-f]{16}", version) for version in versions)


CHANGES: Final = {
    "an endpoint": (site(ONE, TWO), ["eds/"]),
    "a draining endpoint": (site(replace(ONE, draining=True)), ["eds/"]),
    "a peer": (site(peers=(PEER,)), ["eds/"]),
    "a challenge": (site(challenges={"a.example": (("t", "t.p"),)}), ["rds/http.json"]),
    "another prefix": (
        site(routes=(Route("a.example", "/x", "web", "http"),)),
        ["rds/http.json", "rds/peers.json"],
    ),
    "another port": (
        site(backends=(Backend("web", "http", (ONE,)), Backend("web", "admin", (ONE,)))),
        ["cds.json", "eds/"],
    ),
    "a limit for draining": (site(drain_seconds=1), []),
    "a challenge for nobody's host": (site(challenges={"b.example": (("t", "t.p"),)}), []),
}


@pytest.mark.parametrize("case", CHANGES)
def test_only_what_is_about_it_changes(case: str) -> None:
    after, paths = CHANGES[case]
    assert changed(made(site()), made(after)) == paths


def test_a_certificate_comes_into_the_listeners_alone(certificate: TlsCertificate) -> None:
    before = made(site(tls=True))
    after = made(site(tls=True, certificates={"a.example": certificate}))
    assert changed(before, after) == ["lds.json", "rds/https.json"]
    assert [path for path, content in after.items() if b"PRIVATE KEY" in content] == ["lds.json"]


def test_files_come_in_the_order_in_which_they_name_one_another(certificate: TlsCertificate) -> None:
    files = made(site(tls=True, certificates={"a.example": certificate}))
    ranks = [next(rank for rank, begins in enumerate(config.ORDER) if path.startswith(begins)) for path in files]
    assert ranks == sorted(ranks)
    named = set(re.findall(r'"path":"/f/([^"]+)"', b"".join(files.values()).decode()))
    assert named == {*files} - {"lds.json", "cds.json"}


WHO_LISTENS: Final = {
    "everything": (LISTEN, True, ["http", "https", "peers"]),
    "no certificate yet": (LISTEN, False, ["http", "peers"]),
    "no port for HTTPS": (replace(LISTEN, https_port=0), True, ["http", "peers"]),
    "no port for HTTP": (replace(LISTEN, http_port=0), True, ["https", "peers"]),
    "no port for peers": (replace(LISTEN, peer_port=0), True, ["http", "https"]),
    "no certificate of the node": (replace(LISTEN, peer_tls=None), True, ["http", "https"]),
}


@pytest.mark.parametrize("case", WHO_LISTENS)
def test_what_has_a_port_and_something_to_serve_listens(case: str, certificate: TlsCertificate) -> None:
    listen, secure, names = WHO_LISTENS[case]
    files = made(site(tls=True, certificates={"a.example": certificate} if secure else {}), listen=listen)
    assert [resource["name"] for resource in resources(files, "lds.json")] == names
    assert sorted(path for path in files if path.startswith("rds/")) == [f"rds/{name}.json" for name in names]


def test_without_a_site_only_http_listens_and_knows_no_host() -> None:
    files = made()
    assert [resource["name"] for resource in resources(files, "lds.json")] == ["http"]
    assert resources(files, "rds/http.json")[0]["virtual_hosts"] == []


@pytest.mark.parametrize(
    ("ipv6", "address"),
    [(False, {"address": "0.0.0.0"}), (True, {"address": "::", "ipv4_compat": True})],  # noqa: S104
    ids=["ipv4", "both"],
)
def test_it_listens_on_all_addresses(ipv6: bool, address: dict[str, Any]) -> None:
    (listener, _) = resources(made(site(), listen=replace(LISTEN, ipv6=ipv6)), "lds.json")
    assert listener["address"] == {"socket_address": {**address, "port_value": 80}}


def test_names_of_any_kind_make_short_safe_paths() -> None:
    env = EnvironmentRef("A" * 63, "p.p", "e_e")
    hosts = ("x" * 253, "under_score", "../../etc", "ÄÖ", "A.B")
    hostile = Site(
        env,
        hosts,
        tuple(Route(host, "/", "S" * 63, "p" * 63) for host in hosts),
        (Backend("S" * 63, "p" * 63, (ONE,)), Backend("..", "a/b", (ONE,))),
    )
    paths = [*made(hostile, site())]
    assert len({path.lower() for path in paths}) == len(paths)
    assert all(re.fullmatch(r"([a-z]+/)?[a-z0-9-][a-z0-9.-]{1,70}", path) for path in paths), paths


def test_the_admin_interface_is_on_a_socket_that_others_cannot_open() -> None:
    found = json.loads(config.bootstrap("/f", node="n1"))
    assert found["admin"] == {"address": {"pipe": {"path": "/f/run/admin.sock", "mode": 0o600}}}
    assert found["node"]["id"] == "n1"
    assert "static_resources" not in found
