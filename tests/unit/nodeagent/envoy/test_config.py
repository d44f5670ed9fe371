"""Rendering of Envoy's files: the set of files, and the files that a change touches."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Final

import pytest

from devopsellence.nodeagent.envoy.config import WRITE_ORDER, bootstrap, config_files
from devopsellence.nodeagent.envoy.model import (
    Backend,
    Endpoint,
    ListenerConfig,
    NodeRouting,
    PeerTls,
    Route,
    RouterPeer,
    RoutingConfig,
    TlsCertificate,
)
from devopsellence.store.keys import EnvironmentRef
from tests.support.host_certificates import tls_certificate

REF: Final = EnvironmentRef("acme", "shop", "production")
OTHER: Final = EnvironmentRef("acme", "blog", "production")
LISTEN: Final = ListenerConfig(80, 443, 7444, PeerTls("CA", "CERTIFICATE", "KEY"))
ONE: Final = Endpoint("c1", "172.18.0.2", 3000)
TWO: Final = Endpoint("c2", "172.18.0.3", 3000)
PEER: Final = RouterPeer("n2", "ab.node.devopsellence.internal", "10.0.0.2", 7444)


@pytest.fixture(scope="module")
def certificate() -> TlsCertificate:
    return tls_certificate()


def routed(*endpoints: Endpoint, **more: Any) -> RoutingConfig:
    plain = RoutingConfig(
        REF, ("a.example",), (Route("a.example", "/", "web", "http"),), (Backend("web", "http", endpoints or (ONE,)),)
    )
    return replace(plain, **more)


def rendered(*configs: RoutingConfig, listen: ListenerConfig = LISTEN) -> dict[str, bytes]:
    return config_files(NodeRouting(configs), listen, "/f")


def resources(files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(files[path])["resources"]
    return messages


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Return the changed paths, with eds/ and sds/ for the files within."""
    paths = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    return sorted({path.partition("/")[0] + "/" if path[:4] in ("eds/", "sds/") else path for path in paths})


def test_equal_routing_renders_equal_files_and_versions() -> None:
    assert rendered(routed(ONE, TWO)) == rendered(routed(TWO, ONE))
    versions = {json.loads(content)["version_info"] for content in rendered(routed()).values()}
    assert all(re.fullmatch("[0-9a-f]{16}", version) for version in versions)


CHANGES: Final = {
    "an endpoint": (routed(ONE, TWO), ["eds/"]),
    "a draining endpoint": (routed(replace(ONE, draining=True)), ["eds/"]),
    "a peer": (routed(peers=(PEER,)), ["eds/"]),
    "a forwarder": (routed(forwarders=("ab.node.devopsellence.internal",)), ["rds/peers.json"]),
    "a challenge": (routed(challenges={"a.example": (("t", "t.p"),)}), ["rds/http.json"]),
    "another prefix": (
        routed(routes=(Route("a.example", "/x", "web", "http"),)),
        ["rds/http.json", "rds/peers.json"],
    ),
    "another port": (
        routed(backends=(Backend("web", "http", (ONE,)), Backend("web", "admin", (ONE,)))),
        ["cds.json", "eds/"],
    ),
    "a limit for draining": (routed(drain_seconds=1), []),
    "a challenge for an unknown host": (routed(challenges={"b.example": (("t", "t.p"),)}), []),
}


@pytest.mark.parametrize("case", CHANGES)
def test_change_touches_only_the_files_concerned(case: str) -> None:
    after, paths = CHANGES[case]
    assert changed(rendered(routed()), rendered(after)) == paths


def test_certificate_is_in_the_listeners_file_only(certificate: TlsCertificate) -> None:
    before = rendered(routed(tls=True))
    after = rendered(routed(tls=True, certificates={"a.example": certificate}))
    assert changed(before, after) == ["lds.json", "rds/https.json"]
    assert [path for path, content in after.items() if b"PRIVATE KEY" in content] == ["lds.json"]


def test_certificate_of_the_router_is_in_one_file() -> None:
    another = replace(LISTEN, peer_tls=PeerTls("CA", "CERTIFICATE 2", "KEY 2"))
    before, after = rendered(routed()), rendered(routed(), listen=another)
    assert [path for path in after if before[path] != after[path]] == ["sds/peer.json"]
    assert "KEY" not in repr(another)


def test_files_are_rendered_in_write_order(certificate: TlsCertificate) -> None:
    files = rendered(routed(tls=True, certificates={"a.example": certificate}))
    ranks = [next(rank for rank, beginning in enumerate(WRITE_ORDER) if path.startswith(beginning)) for path in files]
    assert ranks == sorted(ranks)
    named = set(re.findall(r'"path":"/f/([^"]+)"', b"".join(files.values()).decode()))
    assert named == {*files} - {"lds.json", "cds.json"}


LISTENERS: Final = {
    "everything": (LISTEN, True, ["http", "https", "peers"]),
    "no certificate yet": (LISTEN, False, ["http", "peers"]),
    "no port for HTTPS": (replace(LISTEN, https_port=0), True, ["http", "peers"]),
    "no port for HTTP": (replace(LISTEN, http_port=0), True, ["https", "peers"]),
    "no port for peers": (replace(LISTEN, peer_port=0), True, ["http", "https"]),
    "no certificate of the node": (replace(LISTEN, peer_tls=None), True, ["http", "https"]),
}


@pytest.mark.parametrize("case", LISTENERS)
def test_listeners_exist_for_ports_with_content(case: str, certificate: TlsCertificate) -> None:
    listen, secure, names = LISTENERS[case]
    files = rendered(routed(tls=True, certificates={"a.example": certificate} if secure else {}), listen=listen)
    assert [resource["name"] for resource in resources(files, "lds.json")] == names
    assert sorted(path for path in files if path.startswith("rds/")) == [f"rds/{name}.json" for name in names]


def test_empty_routing_listens_on_http_without_hosts() -> None:
    files = rendered()
    assert [resource["name"] for resource in resources(files, "lds.json")] == ["http"]
    assert resources(files, "rds/http.json")[0]["virtual_hosts"] == []


@pytest.mark.parametrize(
    ("ipv6", "address"),
    [(False, {"address": "0.0.0.0"}), (True, {"address": "::", "ipv4_compat": True})],  # noqa: S104
    ids=["ipv4", "both"],
)
def test_listener_binds_all_addresses(ipv6: bool, address: dict[str, Any]) -> None:
    (listener, _) = resources(rendered(routed(), listen=replace(LISTEN, ipv6=ipv6)), "lds.json")
    assert listener["address"] == {"socket_address": {**address, "port_value": 80}}


def test_hostile_names_make_short_safe_paths() -> None:
    ref = EnvironmentRef("A" * 63, "p.p", "e_e")
    hosts = ("x" * 253, "under_score", "../../etc", "ÄÖ", "A.B")
    hostile = RoutingConfig(
        ref,
        hosts,
        tuple(Route(host, "/", "S" * 63, "p" * 63) for host in hosts),
        (Backend("S" * 63, "p" * 63, (ONE,)), Backend("..", "a/b", (ONE,))),
    )
    paths = [*rendered(hostile, routed())]
    assert len({path.lower() for path in paths}) == len(paths)
    assert all(re.fullmatch(r"([a-z]+/)?[a-z0-9-][a-z0-9.-]{1,70}", path) for path in paths), paths


def test_bootstrap_admin_socket_is_private() -> None:
    document = json.loads(bootstrap("/f", node="n1"))
    assert document["admin"] == {"address": {"pipe": {"path": "/f/run/admin.sock", "mode": 0o600}}}
    assert document["node"]["id"] == "n1"
    assert "static_resources" not in document


def test_connection_that_asks_for_nothing_has_a_time_limit(certificate: TlsCertificate) -> None:
    files = rendered(routed(tls=True, certificates={"a.example": certificate}))
    plain, secure, peers = resources(files, "lds.json")
    assert {listener.get("listener_filters_timeout") for listener in (plain, secure)} == {"10s"}
    assert [len(listener["listener_filters"]) for listener in (plain, secure)] == [1, 1]
    chains = [*secure["filter_chains"], *peers["filter_chains"]]
    assert {chain["transport_socket_connect_timeout"] for chain in chains} == {"10s"}


def test_idle_connections_are_closed_before_the_last_one_is_refused() -> None:
    manager = json.loads(bootstrap("/f", node="n1"))["overload_manager"]
    limit, heap = (monitor["typed_config"] for monitor in manager["resource_monitors"])
    (action,) = manager["actions"]
    (trigger,) = action["triggers"]
    idle_tls_bytes = 14 << 10
    full = trigger["scaled"]["saturation_threshold"] * heap["max_heap_size_bytes"]
    assert full < limit["max_active_downstream_connections"] * idle_tls_bytes
    assert trigger["name"] == manager["resource_monitors"][1]["name"]
