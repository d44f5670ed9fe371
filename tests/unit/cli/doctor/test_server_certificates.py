"""Results for the certificates of gateways and members of etcd."""

from __future__ import annotations

import datetime

import pytest

from devopsellence.api.v1.stored_pb2 import Candidate
from devopsellence.certificates.life import CertificateState
from devopsellence.cli.cluster.certificates import ISSUING, KnownCertificate
from devopsellence.cli.doctor.cluster import certificate_problems, controller_certificates
from devopsellence.cli.doctor.server_certificates import ServerCertificate, certificate_results, gateways_among

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
A, B, C = "10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"


def days(number: int) -> datetime.datetime:
    return NOW + datetime.timedelta(days=number)


@pytest.mark.parametrize(
    ("expiries", "expected"),
    [
        ({}, []),
        ({A: days(300), B: days(200)}, [("ok", "server certificates", "expires in 200 days")]),
        ({A: days(300), B: days(10)}, [("warning", f"certificate of {B}", "expires in 10 days")]),
        (
            {A: days(10), B: days(-1)},
            [("warning", f"certificate of {A}", "10"), ("error", f"certificate of {B}", "expired")],
        ),
        ({A: "clients refuse it: expired"}, [("error", f"certificate of {A}", "clients refuse it: expired")]),
    ],
)
def test_certificate_that_ends_soon_is_named(
    expiries: dict[str, datetime.datetime | str], expected: list[tuple[str, str, str]]
) -> None:
    certificates = {
        endpoint: ServerCertificate(refused=end) if isinstance(end, str) else ServerCertificate(end)
        for endpoint, end in expiries.items()
    }
    results = certificate_results(certificates, NOW)
    assert [(result.severity, result.name) for result in results] == [row[:2] for row in expected]
    assert all(text in result.message for result, (_, _, text) in zip(results, expected, strict=True))


@pytest.mark.parametrize(
    ("names", "gateways"),
    [
        ({}, set()),
        ({A: "etcd", B: "etcd"}, set()),
        ({A: "controller"}, {A, B, C}),
        ({A: "controller", B: "etcd"}, {A, C}),
        ({A: ""}, set()),
    ],
)
def test_gateways_are_told_by_their_certificates(names: dict[str, str], gateways: set[str]) -> None:
    certificates = {endpoint: ServerCertificate(days(9), common_name=name) for endpoint, name in names.items()}
    assert gateways_among((A, B, C), certificates) == gateways


def test_certificate_of_a_controller_that_ends_soon_is_named() -> None:
    def candidate(identity: str, end: datetime.datetime | None) -> Candidate:
        made = Candidate(identity=identity)
        if end is not None:
            made.certificate_expires_at.FromDatetime(end)
        return made

    found = [candidate("a/1", days(300)), candidate("b/2", days(5)), candidate("c/3", days(-5)), candidate("d/4", None)]
    assert [(result.severity, result.name) for result in controller_certificates(found, NOW)] == [
        ("warning", "certificate of controller b/2"),
        ("error", "certificate of controller c/3"),
    ]


def test_agent_that_does_not_renew_and_due_authority_are_named() -> None:
    states = {
        "node n1": CertificateState.OK,
        "node n2": CertificateState.RENEWAL_DUE,
        "node n3": CertificateState.EXPIRES_SOON,
        "node n4": CertificateState.EXPIRED,
        "": CertificateState.EXPIRED,
    }
    agents = [KnownCertificate("node:u", "1", days(5), state, used_by) for used_by, state in states.items()]
    authority = KnownCertificate(ISSUING, "2", days(90), CertificateState.RENEWAL_DUE, "/pki/tls.crt")
    assert [(result.severity, result.name) for result in certificate_problems([*agents, authority])] == [
        ("warning", "certificate of node n3"),
        ("error", "certificate of node n4"),
        ("warning", "issuing authority"),
    ]
    sound = KnownCertificate(ISSUING, "2", days(300), CertificateState.OK, "/pki/tls.crt")
    assert certificate_problems([sound]) == []
