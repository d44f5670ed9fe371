"""Certificates of a cluster: state, use, and those that need attention first."""

from __future__ import annotations

import datetime
from pathlib import Path

from devopsellence.api.v1.stored_pb2 import Candidate, DeniedCertificate, DenyList, Heartbeat, IssuedCertificate, Node
from devopsellence.cli.cluster.certificates import (
    CertificateFacts,
    LocalCertificate,
    known_certificates,
)
from tests.support.certificates import make_certificate

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def issued(serial: str, identity: str, age: int, by: str = "") -> IssuedCertificate:
    record = IssuedCertificate(serial=serial, identity=identity, issued_by=by or identity)
    record.not_before.FromDatetime(NOW - age * DAY)
    record.not_after.FromDatetime(NOW + (90 - age) * DAY)
    return record


def beat(name: str, uid: str, serial: str, days_left: int) -> Heartbeat:
    made = Heartbeat(node=name, uid=uid, certificate_serial=serial)
    made.certificate_expires_at.FromDatetime(NOW + days_left * DAY)
    return made


def shown(facts: CertificateFacts) -> list[tuple[str, str, str, str]]:
    return [(found.state, found.identity, found.used_by, found.serial) for found in known_certificates(facts, NOW)]


def test_certificate_in_use_and_the_one_before_are_both_shown() -> None:
    facts = CertificateFacts(
        issued=[issued("a1", "node:u1", 80), issued("a2", "node:u1", 10)],
        nodes={"n1": Node(name="n1", uid="u1")},
        heartbeats={"n1": beat("n1", "u1", "a2", 80)},
    )
    assert shown(facts) == [("expires soon", "node:u1", "", "a1"), ("ok", "node:u1", "node n1", "a2")]


def test_certificates_that_need_attention_come_first() -> None:
    facts = CertificateFacts(
        issued=[
            issued("1", "operator:ann", 0),
            issued("2", "operator:bob", 65),
            issued("3", "operator:cat", 80),
            issued("4", "operator:dan", 100),
            issued("5", "operator:eve", 10),
            issued("6", "operator:fay", 10),
        ],
        denied=DenyList(certificates=[DeniedCertificate(name="operator:eve"), DeniedCertificate(serial="6")]),
    )
    assert [(state, identity) for state, identity, _, _ in shown(facts)] == [
        ("denied", "operator:eve"),
        ("denied", "operator:fay"),
        ("expired", "operator:dan"),
        ("expires soon", "operator:cat"),
        ("renewal due", "operator:bob"),
        ("ok", "operator:ann"),
    ]


def test_node_of_another_machine_or_version_shows_no_certificate() -> None:
    facts = CertificateFacts(
        nodes={"n1": Node(name="n1", uid="u1"), "n2": Node(name="n2", uid="u2"), "n3": Node(name="n3", uid="u3")},
        heartbeats={"n1": beat("n1", "another", "1", 80), "n2": Heartbeat(node="n2", uid="u2")},
    )
    assert shown(facts) == []


def test_end_that_a_hostile_node_reports_is_shown() -> None:
    hostile = Heartbeat(node="n1", uid="u1", certificate_serial="1")
    hostile.certificate_expires_at.FromJsonString("0001-01-01T00:00:00Z")
    facts = CertificateFacts(nodes={"n1": Node(name="n1", uid="u1")}, heartbeats={"n1": hostile})
    assert shown(facts) == [("expired", "node:u1", "node n1", "1")]


def test_controllers_and_files_are_shown() -> None:
    candidate = Candidate(identity="host/12")
    candidate.certificate_expires_at.FromDatetime(datetime.datetime.now(datetime.UTC) + 80 * DAY)
    files = [
        LocalCertificate("issuing authority", Path("/pki/tls.crt"), make_certificate("issuing", ends=365 * DAY).pem),
        LocalCertificate("root authority", Path("/pki/ca.crt"), b"nonsense"),
    ]
    facts = CertificateFacts(candidates=[candidate, Candidate(identity="host/13")], local=files)
    found = known_certificates(facts, datetime.datetime.now(datetime.UTC))
    assert [(known.state, known.identity, known.used_by, known.renewed_by) for known in found] == [
        ("ok", "controller", "controller host/12", "itself"),
        ("ok", "issuing authority", "/pki/tls.crt", "cluster init"),
    ]


def test_certificate_for_a_fixed_term_needs_no_attention_before_its_end() -> None:
    records = [issued("1", "join:u1", 80), issued("2", "operator:ci", 100)]
    for record in records:
        record.fixed_term = True
    found = [(known.state, known.renewed_by) for known in known_certificates(CertificateFacts(issued=records), NOW)]
    assert found == [("expired", "nobody"), ("ok", "nobody")]


def test_certificate_of_a_router_is_shown_unless_it_is_that_of_its_node() -> None:
    with_own, without = beat("n1", "u1", "1", 80), beat("n2", "u2", "2", 80)
    for made, serial in ((with_own, "a"), (without, "2")):
        made.router_tls.certificate_serial = serial
        made.router_tls.certificate_expires_at.FromDatetime(NOW + 10 * DAY)
    facts = CertificateFacts(
        nodes={"n1": Node(name="n1", uid="u1"), "n2": Node(name="n2", uid="u2")},
        heartbeats={"n1": with_own, "n2": without},
    )
    assert shown(facts) == [
        ("expires soon", "router:u1", "node n1's router", "a"),
        ("ok", "node:u1", "node n1", "1"),
        ("ok", "node:u2", "node n2", "2"),
    ]
