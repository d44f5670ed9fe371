"""Hosts: conflicts, serving nodes, warnings."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Ingress, IngressRule, Service
from devopsellence.cli.deploy import ingress as routed
from devopsellence.cli.ingress import hosts
from devopsellence.cli.ingress.hosts import HostOwner
from devopsellence.placement import HeldCopies, compute_placement
from devopsellence.store.keys import EnvironmentRef

OURS, THEIRS = (EnvironmentRef("acme", "shop", name) for name in ("production", "staging"))


def ingress(*rules: str, mode: Ingress.TlsMode.ValueType = Ingress.AUTO, **fields: object) -> Ingress:
    """Return an ingress with rules given as ``host/prefix service``."""
    parsed = []
    for rule in rules:
        where, _, service = rule.partition(" ")
        host, _, prefix = where.partition("/")
        parsed.append(IngressRule(host=host, path_prefix=f"/{prefix}", service=service, port="http"))
    names = list(dict.fromkeys(rule.host for rule in parsed))
    return Ingress(hosts=names, rules=parsed, tls_mode=mode, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, []),
        ({THEIRS: (["n2"], ["a.org"])}, []),
        ({THEIRS: (["n1", "n3"], ["b.org"])}, []),
        ({THEIRS: (["n1", "n3"], ["a.org", "b.org"])}, [HostOwner("a.org", THEIRS, ("n1",))]),
    ],
    ids=["alone", "another node", "another host", "the same host and node"],
)
def test_host_conflict_between_environments_on_a_node(
    others: dict[EnvironmentRef, tuple[list[str], list[str]]], expected: list[HostOwner]
) -> None:
    assert hosts.host_owners(["a.org", "c.org"], ["n1", "n4"], others) == expected


def test_serving_nodes_run_all_target_services() -> None:
    services = [Service(name="web", kind=Service.WEB), Service(name="jobs", kind=Service.WORKER)]
    nodes = [Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web"])]
    placed = compute_placement(services, nodes, HeldCopies())
    assert hosts.nodes_serving(ingress("a.org/ web"), placed) == ["n1", "n2"]
    assert hosts.nodes_serving(ingress("a.org/ web", "a.org/jobs jobs"), placed) == ["n1"]
    assert hosts.nodes_serving(ingress("a.org/ gone"), placed) == []


@pytest.mark.parametrize(
    "host", ["localhost", "shop.localhost", "shop", "shop.local", "db.corp.internal", "10.0.0.1", "shop.test"]
)
def test_private_hosts_get_no_public_certificate(host: str) -> None:
    assert hosts.uncertifiable_hosts(ingress(f"{host}/ web", "shop.example.com/ web")) == [host]
    assert hosts.uncertifiable_hosts(ingress(f"{host}/ web", mode=Ingress.MANUAL)) == []
    assert hosts.uncertifiable_hosts(ingress(f"{host}/ web", mode=Ingress.OFF)) == []
    assert hosts.uncertifiable_hosts(ingress(f"{host}/ web", tls_ca_directory_url="https://ca.internal/dir")) == []


def test_deploy_warns_about_ineffective_ingress() -> None:
    assert routed.warnings(ingress("a.example.com/ web"), ["n1"]) == []
    idle = ingress("a.example.com/ web")
    idle.hosts.append("b.example.com")
    (sentence,) = routed.warnings(idle, ["n1"])
    assert sentence == "ingress.hosts: no rule for b.example.com, so every request gets a 404"
    (nowhere,) = routed.warnings(ingress("a.example.com/ web", "a.example.com/api api"), [])
    assert "no node runs all target services (api, web)" in nowhere


def test_ingress_changes_are_listed() -> None:
    before = ingress("a.org/ web", "a.org/api api")
    after = ingress("a.org/ shop", "b.org/ web", mode=Ingress.OFF)
    assert routed.changes(before, before) == []
    assert routed.changes(before, after) == [
        "+ host b.org",
        "+ b.org/ → web:http",
        "- a.org/api → api:http",
        "~ a.org/: web:http → shop:http",
        "~ tls.mode: auto → off",
    ]
    assert routed.change_lines(before, None, []) == ["ingress: removed (a.org)"]
    assert routed.change_lines(None, None, []) == []
    assert routed.change_lines(None, ingress("a.org/ web"), ["n1"])[:2] == ["ingress: a.org on n1", "  + host a.org"]
    assert routed.change_document(None, None, []) is None
