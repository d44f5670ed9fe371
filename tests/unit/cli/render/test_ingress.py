"""Ingress in ``status``."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Certificate,
    Environment,
    Heartbeat,
    IngressStatus,
    Issuance,
    Node,
    Release,
    Rollout,
)
from devopsellence.api.v1.workload_pb2 import Ingress, IngressRule
from devopsellence.cli.render import ingress, text
from devopsellence.cli.render import json as document
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.store.keys import EnvironmentRef

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
HOST = "app.example.com"
SERVING = IngressStatus(phase=IngressStatus.SERVING, http_port=80, https_port=443)


def certificate(days: float = 60, issuance: Issuance | None = None) -> Certificate:
    record = Certificate(
        host=HOST, source=Certificate.ACME, chain_pem="PEM", serial="a1", issuer="R3", issuance=issuance
    )
    record.not_after.FromDatetime(NOW + timedelta(days=days))
    return record


def backoff(failures: int = 3) -> Issuance:
    record = Issuance(phase=Issuance.BACKOFF, reason="the authority cannot reach it.", failures=failures)
    record.next_attempt_at.FromDatetime(NOW + timedelta(hours=1))
    return record


def snapshot(
    *hosts: str,
    mode: Ingress.TlsMode.ValueType = Ingress.AUTO,
    certificates: dict[str, Certificate] | None = None,
    phase: Rollout.Phase.ValueType = Rollout.SETTLED,
    **nodes: IngressStatus | None,
) -> Snapshot:
    names = list(hosts or (HOST,))
    rules = [IngressRule(host=host, path_prefix="/", service="web", port="http") for host in names]
    return Snapshot(
        ref=EnvironmentRef("acme", "shop", "production"),
        environment=Environment(nodes=list(nodes), latest_release=1),
        release=Release(number=1, ingress=Ingress(hosts=names, rules=rules, tls_mode=mode)),
        rollout=Rollout(release=1, phase=phase),
        nodes={name: Node(name=name, uid="u") for name in nodes},
        heartbeats={name: Heartbeat(node=name, uid="u") for name in nodes},
        statuses={name: AssignmentStatus(node=name, node_uid="u", ingress=status) for name, status in nodes.items()},
        certificates=certificates or {},
    )


#: Envoy is down, or has begun to listen for HTTP only: HTTPS follows with the first certificate.
DOWN = IngressStatus(configured_http_port=8080, configured_https_port=8443)
ONLY_HTTP = IngressStatus(http_port=8080, configured_http_port=8080, configured_https_port=8443)


def problem_texts(state: Snapshot) -> list[tuple[str, str]]:
    return [(problem.severity, problem.text) for problem in ingress.ingress_problems(state, NOW)]


def test_healthy_ingress_is_a_single_line() -> None:
    state = snapshot(n1=SERVING, certificates={HOST: certificate()})
    assert "Ingress      https://app.example.com/" in text.status(state, NOW).splitlines()
    assert problem_texts(state) == []
    assert text.notes(state, NOW) == []


def test_no_ingress_shows_nothing() -> None:
    state = Snapshot(ref=EnvironmentRef("acme", "shop", "production"))
    assert (ingress.urls(state), ingress.address_line(state), ingress.ingress_problems(state, NOW)) == ([], "", [])
    assert document.status(state, NOW)["ingress"] is None


@pytest.mark.parametrize(
    ("state", "url"),
    [
        (snapshot(n1=SERVING), "http://app.example.com/"),
        (snapshot(n1=SERVING, certificates={HOST: certificate()}, mode=Ingress.OFF), "http://app.example.com/"),
        (snapshot(n1=None, certificates={HOST: certificate()}), "https://app.example.com/"),
        (
            snapshot(n1=IngressStatus(http_port=8080, https_port=8443), certificates={HOST: certificate()}),
            "https://app.example.com:8443/",
        ),
        (snapshot(n1=IngressStatus(http_port=8080, https_port=8443)), "http://app.example.com:8080/"),
        (snapshot(n1=IngressStatus(http_port=80), certificates={HOST: certificate()}), "http://app.example.com/"),
        (snapshot(n1=IngressStatus(http_port=8080), n2=SERVING), "http://app.example.com/"),
        (snapshot(n1=DOWN), "http://app.example.com:8080/"),
        (snapshot(n1=DOWN, certificates={HOST: certificate()}), "https://app.example.com:8443/"),
        (snapshot(n1=ONLY_HTTP, certificates={HOST: certificate()}), "https://app.example.com:8443/"),
        (snapshot(n1=DOWN, n2=IngressStatus(http_port=9090)), "http://app.example.com:9090/"),
    ],
    ids=[
        *("no certificate", "off", "nothing said", "other ports", "other port", "no https", "two nodes"),
        *("Envoy down", "Envoy down with a certificate", "https about to be served", "one Envoy of two down"),
    ],
)
def test_url_depends_on_certificate_and_ports(state: Snapshot, url: str) -> None:
    assert ingress.urls(state) == [url]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            snapshot(
                mode=Ingress.OFF, n1=IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken"), n2=SERVING
            ),
            [("error", "n1: port 80 is taken")],
        ),
        (
            snapshot(mode=Ingress.OFF, n1=IngressStatus(phase=IngressStatus.STARTING, reason="pulls Envoy's image")),
            [("warning", "n1: the router is starting: pulls Envoy's image")],
        ),
        (
            snapshot(mode=Ingress.OFF, n1=None, n2=None),
            [("error", "no node serves the ingress: no node runs all of web")],
        ),
        (snapshot(mode=Ingress.OFF, n1=None, phase=Rollout.PROGRESSING), []),
    ],
    ids=["failed", "starting", "nowhere", "not yet"],
)
def test_node_problems_are_shown(state: Snapshot, expected: list[tuple[str, str]]) -> None:
    assert problem_texts(state) == expected


def test_status_of_unreachable_node_is_ignored() -> None:
    failed = IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken")
    state = snapshot(mode=Ingress.OFF, n1=failed, n2=failed)
    assert problem_texts(state) == [("error", "n1, n2: port 80 is taken")]
    gone = replace(state, heartbeats={"n2": Heartbeat(node="n2")})
    assert problem_texts(gone) == [("error", "n2: port 80 is taken")]
    other = replace(state, nodes={"n1": Node(name="n1", uid="new"), "n2": Node(name="n2", uid="u")})
    assert problem_texts(other) == [("error", "n2: port 80 is taken")]


@pytest.mark.parametrize(
    ("mode", "stored", "severity", "words"),
    [
        (Ingress.AUTO, None, "warning", "no certificate yet, so plain HTTP: not ordered yet"),
        (
            Ingress.AUTO,
            Certificate(issuance=Issuance(phase=Issuance.CHALLENGE)),
            "warning",
            "no certificate yet, so plain HTTP: the certificate authority is validating the host",
        ),
        (
            Ingress.AUTO,
            Certificate(issuance=backoff()),
            "error",
            "no certificate, so plain HTTP: the authority cannot reach it (3 times in a row); next attempt ",
        ),
        (Ingress.MANUAL, None, "warning", "no certificate is installed, so plain HTTP"),
        (Ingress.AUTO, certificate(9.5), "warning", "the certificate expires in 9 days"),
        (Ingress.AUTO, certificate(-1), "error", "the certificate expired on "),
        (
            Ingress.AUTO,
            certificate(9.5, backoff(1)),
            "warning",
            "expires in 9 days; the authority cannot reach it; next",
        ),
        (
            Ingress.AUTO,
            certificate(29, backoff()),
            "warning",
            "is valid for 29 days, but renewal fails: the authority",
        ),
    ],
    ids=["none", "under way", "failing", "manual", "expires", "expired", "expires and fails", "renewal fails"],
)
def test_certificate_problems_are_shown(
    mode: Ingress.TlsMode.ValueType, stored: Certificate | None, severity: str, words: str
) -> None:
    state = snapshot(n1=SERVING, mode=mode, certificates={HOST: stored} if stored else {})
    ((how, sentence),) = problem_texts(state)
    assert how == severity
    assert words in sentence


def test_valid_certificate_is_no_problem() -> None:
    under_way = certificate(29, Issuance(phase=Issuance.ORDER))
    assert problem_texts(snapshot(n1=SERVING, certificates={HOST: under_way})) == []


def test_hosts_with_equal_problem_share_a_line() -> None:
    hosts = [f"h{number}.example.com" for number in range(200)]
    state = snapshot(*hosts, n1=SERVING)
    lines = text.status(state, NOW).splitlines()
    assert lines[-1] == (
        "Ingress: h0.example.com, h1.example.com, h2.example.com, h3.example.com, h4.example.com and 195 more: "
        "no certificate yet, so plain HTTP: not ordered yet"
    )
    shown = document.status(state, NOW)["ingress"]
    json.dumps(shown)
    assert len(shown["hosts"]) == 200
    assert shown["problems"][0]["code"] == "ingress_certificate_missing"


def test_certificate_json_has_no_key() -> None:
    stored = certificate(29, backoff())
    stored.key_age = "age-encryption.org"
    shown = document.status(snapshot(n1=SERVING, certificates={HOST: stored}), NOW)["ingress"]
    (host,) = shown["hosts"]
    assert (host["host"], host["url"]) == (HOST, "https://app.example.com/")
    assert (host["certificate"]["source"], host["certificate"]["issuer"]) == ("acme", "R3")
    assert host["certificate"]["issuance"]["phase"] == "backoff"
    assert shown["nodes"] == [{"node": "n1", "phase": "serving", "reason": "", "http_port": 80, "https_port": 443}]
    assert "age-encryption" not in json.dumps(shown)


def test_url_of_unreachable_nodes_has_their_port() -> None:
    state = replace(snapshot(n1=IngressStatus(http_port=8080)), heartbeats={})
    assert ingress.urls(state) == ["http://app.example.com:8080/"]
