"""Results of ``ingress check``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from devopsellence.api.v1.stored_pb2 import Certificate, IngressStatus
from devopsellence.api.v1.workload_pb2 import Ingress
from devopsellence.cli.ingress import check_findings
from devopsellence.cli.ingress.dns import DnsAnswer, LookupStatus
from devopsellence.cli.ingress.probe import HttpAnswer, PresentedCertificate

NOW = datetime(2024, 6, 1, tzinfo=UTC)
HOST = "app.example.com"
ONE, TWO = frozenset({"8.8.1.1"}), frozenset({"8.8.2.2", "2001:4860::2"})


def leads(*addresses: str, alias: str = "") -> DnsAnswer:
    return DnsAnswer(LookupStatus.FOUND, addresses, alias)


@pytest.mark.parametrize(
    ("answer", "nodes", "severity", "code", "words"),
    [
        (leads("8.8.1.1", "8.8.2.2"), {"n1": ONE, "n2": TWO}, "ok", "", "points to 8.8.1.1, 8.8.2.2"),
        (leads("8.8.1.1", alias="lb.example.net"), {"n1": ONE}, "ok", "", "(alias of lb.example.net)"),
        (leads("8.8.1.1"), {"n1": ONE, "n2": TWO}, "warning", "ingress_dns_incomplete", "not to n2"),
        (leads("8.8.9.9"), {"n1": ONE}, "error", "ingress_dns_elsewhere", "8.8.9.9 is not the address of a node"),
        (leads("8.8.1.1", "8.8.9.9"), {"n1": ONE}, "error", "ingress_dns_elsewhere", "8.8.9.9 is not the address"),
        (leads("8.8.9.9"), {"n1": frozenset({"10.0.0.5"})}, "warning", "ingress_dns_elsewhere", "load balancer"),
        (
            leads("8.8.9.9"),
            {"n1": ONE, "n2": frozenset()},
            "warning",
            "ingress_dns_elsewhere",
            "unless there is a load balancer",
        ),
        (leads("10.0.0.9"), {"n1": frozenset({"10.0.0.5"})}, "error", "ingress_dns_elsewhere", "10.0.0.9"),
        (
            DnsAnswer(LookupStatus.ABSENT, detail="no such name"),
            {"n1": ONE},
            "error",
            "ingress_dns_missing",
            "no such name",
        ),
        (
            DnsAnswer(LookupStatus.SILENT, detail="no resolver answered"),
            {"n1": ONE},
            "error",
            "ingress_dns_silent",
            "no resolver",
        ),
    ],
    ids=["all", "alias", "some", "elsewhere", "also elsewhere", "translated", "unknown", "private", "absent", "silent"],
)
def test_dns_answer_is_compared_with_nodes(
    answer: DnsAnswer, nodes: dict[str, frozenset[str]], severity: str, code: str, words: str
) -> None:
    check = check_findings.dns_result(HOST, answer, nodes)
    assert (check.severity, check.code) == (severity, code)
    assert words in check.message


def test_missing_name_suggests_dns_records() -> None:
    check = check_findings.dns_result(HOST, DnsAnswer(LookupStatus.ABSENT), {"n1": ONE, "n2": TWO})
    assert check.next_actions[0].command == "app.example.com  A/AAAA  2001:4860::2, 8.8.1.1, 8.8.2.2"


AUTO = Ingress(hosts=[HOST], tls_mode=Ingress.AUTO)
OFF = Ingress(hosts=[HOST], tls_mode=Ingress.OFF)
SERVING = IngressStatus(phase=IngressStatus.SERVING, http_port=80, https_port=443)


@pytest.mark.parametrize(
    ("status", "address", "answers", "secure", "sentences"),
    [
        (SERVING, "8.8.1.1", {80: "", 443: ""}, True, ["ok open at 8.8.1.1", "ok open at 8.8.1.1"]),
        (SERVING, "8.8.1.1", {80: "", 443: "refused"}, True, ["ok open at 8.8.1.1", "error 8.8.1.1: refused"]),
        (None, "8.8.1.1", {}, True, ["error its agent has not reported an ingress status yet"]),
        (SERVING, "", {}, True, ["warning the node is registered without an address"]),
        (
            IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken by nginx"),
            "8.8.1.1",
            {},
            True,
            ["error port 80 is taken by nginx"],
        ),
        (
            IngressStatus(phase=IngressStatus.STARTING),
            "8.8.1.1",
            {},
            True,
            ["error its router is starting"],
        ),
        (
            IngressStatus(phase=IngressStatus.SERVING, http_port=80),
            "8.8.1.1",
            {80: ""},
            True,
            ["ok open at 8.8.1.1", "error its router does not listen for HTTPS"],
        ),
        (
            IngressStatus(phase=IngressStatus.SERVING, http_port=80),
            "8.8.1.1",
            {80: ""},
            False,
            ["ok open at 8.8.1.1"],
        ),
    ],
    ids=["well", "closed", "silent", "no address", "failed", "starting", "no https", "no https wanted"],
)
def test_node_router_and_ports_are_checked(
    status: IngressStatus | None, address: str, answers: dict[int, str], secure: bool, sentences: list[str]
) -> None:
    checks = check_findings.node_results("n1", status, address, answers, secure=secure)
    assert len(checks) == len(sentences)
    for check, words in zip(checks, sentences, strict=True):
        assert f"{check.severity} {check.message}".startswith(words)


def certificate(serial: str = "a1", days: float = 60) -> Certificate:
    record = Certificate(host=HOST, source=Certificate.ACME, chain_pem="PEM", serial=serial, issuer="R3")
    record.not_after.FromDatetime(NOW + timedelta(days=days))
    return record


def test_missing_certificate_is_an_error() -> None:
    assert check_findings.stored_certificate_results(OFF, HOST, None, NOW) == []
    (missing,) = check_findings.stored_certificate_results(AUTO, HOST, None, NOW)
    assert (missing.severity, missing.code) == ("error", "ingress_certificate_missing")
    (there,) = check_findings.stored_certificate_results(AUTO, HOST, certificate(), NOW)
    assert (there.severity, there.message) == ("ok", "issued by R3, valid for 60 days")
    (soon,) = check_findings.stored_certificate_results(AUTO, HOST, certificate(days=3), NOW)
    assert (soon.severity, soon.message) == ("warning", "the certificate expires in 3 days")


def shown(
    serial: str = "a1", *, names: tuple[str, ...] = (HOST,), days: int = 60, distrust: str = ""
) -> PresentedCertificate:
    return PresentedCertificate("", serial, "R3", names, (), NOW + timedelta(days=days), distrust)


@pytest.mark.parametrize(
    ("seen", "severity", "words"),
    [
        (shown(), "ok", "serves the certificate issued by R3 (n1)"),
        (shown("b2"), "error", "is not the newest certificate"),
        (shown(names=("other.org",)), "error", "is for another host"),
        (shown(names=("*.example.com",)), "ok", "serves"),
        (shown(days=-1), "error", "has expired"),
        (
            shown(distrust="self-signed certificate"),
            "warning",
            "does not trust the certificate issued by R3: self-signed",
        ),
        (PresentedCertificate("connection refused"), "error", "connection refused"),
    ],
    ids=["right", "old", "other", "wildcard", "expired", "untrusted", "refused"],
)
def test_presented_certificate_is_checked(seen: PresentedCertificate, severity: str, words: str) -> None:
    (check,) = check_findings.served_certificate_results(HOST, certificate(), {"n1": seen}, NOW)
    assert check.severity == severity
    assert words in check.message


@pytest.mark.parametrize(
    ("status", "severity"), [(200, "ok"), (302, "ok"), (401, "ok"), (404, "warning"), (500, "error"), (503, "error")]
)
def test_http_status_is_checked(status: int, severity: str) -> None:
    (check,) = check_findings.answer_results(HOST, "/", {"n1": HttpAnswer(status=status)}, secure=True)
    assert (check.name, check.severity) == ("answer of https://app.example.com/", severity)


def test_equal_results_of_nodes_are_merged() -> None:
    good, bad = HttpAnswer(status=200), HttpAnswer(error="connection refused")
    checks = check_findings.answer_results(HOST, "/", {"n1": good, "n2": bad, "n3": good}, secure=False)
    assert [(check.severity, check.message) for check in checks] == [
        ("ok", "status 200 (n1, n3)"),
        ("error", "connection refused (n2)"),
    ]
    assert check_findings.summary(checks) == "1 failed, 1 passed"


@pytest.mark.parametrize(
    ("answer", "severity"),
    [
        (HttpAnswer(status=301, location="https://app.example.com/"), "ok"),
        (HttpAnswer(status=308, location="https://app.example.com:8443/"), "ok"),
        (HttpAnswer(status=301, location="https://elsewhere.org/"), "error"),
        (HttpAnswer(status=200), "error"),
        (HttpAnswer(error="refused"), "error"),
    ],
    ids=["301", "another port", "elsewhere", "none", "refused"],
)
def test_redirect_to_https_is_checked(answer: HttpAnswer, severity: str) -> None:
    (check,) = check_findings.redirect_results(HOST, "/", {"n1": answer})
    assert check.severity == severity
