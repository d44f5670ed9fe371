"""Sizes: every kind of record is either refused before the write, or cut to a bounded size."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.store import size
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord, Rejected
from devopsellence.store.size import MAX_RECORD_BYTES, MAX_REQUEST_BYTES, REPORT_BYTES, RecordTooLarge, bounded

BIG = "x" * 60_000
# Three bytes as UTF-8, six as JSON.
WIDE = "€"


def _services(count: int = 30) -> list[Service]:
    return [Service(name=f"s{number}", env={"TEXT": BIG}) for number in range(count)]


def _sealed(count: int = 30) -> list[pb.SealedSecret]:
    return [pb.SealedSecret(service="web", name=f"S{number}", version=1, age=BIG) for number in range(count)]


def _status_services(count: int) -> list[pb.ServiceStatus]:
    return [
        pb.ServiceStatus(
            name=f"s{number:04}",
            phase=pb.ServiceStatus.BACKOFF,
            reason=WIDE * 3000,
            hash="f" * 64,
            last_exit=pb.Exit(code=1, log_lines=[WIDE * 500] * 20),
        )
        for number in range(count)
    ]


# An oversized record of every type that is stored, with the part that its refusal names; None: the record is cut.
OVERSIZED: list[tuple[Message, str | None]] = [
    (pb.Node(name="n1", address="a" * 2_000_000), "address (1954 KiB)"),
    (pb.Operator(name="o", age_recipient="a" * 2_000_000), "age_recipient (1954 KiB)"),
    (pb.Environment(project="shop", nodes=[f"node-{number:060}" for number in range(30_000)]), "nodes ("),
    (pb.Release(number=1, services=_services()), "services ("),
    (
        pb.Release(number=1, services=[Service(name="web", env={"BIG": BIG * 30}), *_services(2)]),
        "services web env BIG",
    ),
    (pb.Assignment(node="n1", services=_services(2), secrets=_sealed()), "secrets (1"),
    (
        pb.Secret(service="web", name="S", versions=[pb.SecretVersion(version=n, age=BIG * 4) for n in range(1, 9)]),
        "versions 1 age (2",
    ),
    (pb.Certificate(host="a.example", chain_pem=BIG * 30), "chain_pem (1758 KiB)"),
    (pb.NodeIngress(part="a.example", certificate=pb.HostCertificate(chain_pem=BIG * 30)), "certificate chain_pem ("),
    (pb.AssignmentStatus(node="n1", reason="r" * 2_000_000, services=_status_services(100)), None),
    (
        pb.AssignmentStatus(node="n1", services=[pb.ServiceStatus(name=f"s{n}", image="i" * 400) for n in range(5000)]),
        None,
    ),
    (pb.Rollout(release=1, nodes=[pb.NodeProgress(node=f"n{n}", reason=WIDE * 9000) for n in range(100)]), None),
    (pb.Rollout(history=[pb.RolloutOutcome(release=n, reason=BIG) for n in range(1, 101)], halted=BIG * 40), None),
    (pb.Heartbeat(node="n1", problem=WIDE * 500_000, hostname=BIG * 30), None),
    (pb.Event(code="c", message=BIG * 30), None),
    (pb.Candidate(identity=BIG * 30), None),
]


def _name(case: Any) -> str:
    return case.DESCRIPTOR.name if isinstance(case, Message) else ""


@pytest.mark.parametrize(("record", "part"), OVERSIZED, ids=_name)
def test_oversized_record_is_refused_with_its_largest_part_or_cut(record: Message, part: str | None) -> None:
    if part is not None:
        with pytest.raises(RecordTooLarge, match=r"^/k is too large: \d+ KiB, \d+ KiB more than the 1408 KiB") as error:
            size.check_writes([("/k", encode(record))])
        assert error.value.parts.startswith(part)
        assert bounded(record) is record
        return
    cut = bounded(record)
    value = encode(cut)
    assert len(value) <= REPORT_BYTES[record.DESCRIPTOR.name]
    size.check_writes([("/k", value)])
    assert bounded(cut) == cut
    # A hostile node does not cut: the reader does.
    assert decode(type(record), "/k", encode(record)) == cut


def test_every_stored_message_has_an_oversized_record() -> None:
    stored = {
        *("Node", "Heartbeat", "Operator", "Secret", "Environment", "Release", "Rollout", "Assignment"),
        *("Certificate", "NodeIngress", "AssignmentStatus", "Event", "Candidate"),
    }
    assert {record.DESCRIPTOR.name for record, _ in OVERSIZED} == stored
    assert {record.DESCRIPTOR.name for record, part in OVERSIZED if part is None} == REPORT_BYTES.keys()
    assert max(REPORT_BYTES.values()) < MAX_RECORD_BYTES < MAX_REQUEST_BYTES


def test_cut_status_keeps_every_service_with_its_phase() -> None:
    status = pb.AssignmentStatus(node="n1", node_uid="u1", generation=7, services=_status_services(200))
    cut = bounded(status)
    assert [service.name for service in cut.services] == [service.name for service in status.services]
    assert all(service.phase == pb.ServiceStatus.BACKOFF and service.last_exit.code == 1 for service in cut.services)
    assert (cut.node, cut.node_uid, cut.generation) == ("n1", "u1", 7)


def test_long_text_of_small_report_is_cut_and_marked() -> None:
    cut = bounded(pb.Event(message="m" * 5000, source="agent/n1"))
    assert len(cut.message) == size.TEXT_CHARACTERS
    assert cut.message.endswith("m…")
    assert cut.source == "agent/n1"


def test_signing_requests_are_dropped_whole() -> None:
    requests = [pb.SigningRequest(id=f"{n:02}", csr_pem="c", key_age=BIG) for n in range(40)]
    cut = bounded(pb.AssignmentStatus(node="n1", ingress=pb.IngressStatus(signing_requests=requests)))
    kept = cut.ingress.signing_requests
    assert 0 < len(kept) < 40
    assert all(request.key_age == BIG for request in kept)


def test_report_with_endless_names_is_unreadable() -> None:
    with pytest.raises(MalformedRecord, match="too large"):
        decode(pb.AssignmentStatus, "/k", encode(pb.AssignmentStatus(node="n" * 2_000_000)))


@pytest.mark.parametrize(
    "report", [pb.AssignmentStatus(node="n1", services=_status_services(2)), pb.Heartbeat(node="n1"), pb.Event()]
)
def test_small_report_is_not_copied(report: Message) -> None:
    once = bounded(report)
    assert bounded(once) is once


def test_writes_of_one_request_are_added_up() -> None:
    half = ("/half", b"x" * (MAX_REQUEST_BYTES // 2))
    size.check_writes([half])
    with pytest.raises(RecordTooLarge, match="/half is too large"):
        size.check_writes([half, half])


def test_refusal_is_final_and_names_no_value() -> None:
    release = pb.Release(services=[Service(name="web", env={"TOKEN": "hunter2" * 300_000})])
    with pytest.raises(Rejected) as error:
        size.check_writes([("/devopsellence/v1/releases/a/b/c/1", encode(release))])
    assert "services web env TOKEN (" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("record", "clause"),
    [
        (pb.Assignment(), ""),
        (pb.Assignment(secrets=_sealed(23)), ""),
        (
            pb.Assignment(secrets=_sealed(25)),
            "1467 KiB, 59 KiB more than the 1408 KiB that etcd takes; most of it is secrets (",
        ),
        # Seldom larger as JSON than as bytes, but possible.
        (pb.Assignment(revision=WIDE * 300_000), "1758 KiB, 350 KiB more than"),
    ],
)
def test_size_problem_counts_the_bytes_that_are_written(record: pb.Assignment, clause: str) -> None:
    problem = size.size_problem(record)
    assert problem.startswith(clause)
    assert bool(problem) is (len(encode(record)) > MAX_RECORD_BYTES)


def test_room_for_later_additions_counts() -> None:
    record = pb.Assignment(secrets=_sealed(23))
    assert size.size_problem(record) == ""
    assert size.size_problem(record, room=MAX_RECORD_BYTES // 10)


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b"\xff", b"1"])
def test_parts_of_something_else_are_empty(value: bytes) -> None:
    assert size.describe_parts(value) == ""


TEXT: Callable[[], st.SearchStrategy[str]] = lambda: st.text(max_size=50).flatmap(  # noqa: E731
    lambda text: st.integers(0, 500).map(lambda times: text * times)
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reason=TEXT(), lines=st.lists(TEXT(), max_size=20), count=st.integers(0, 12))
def test_bounded_report_fits_and_is_never_cut_twice(reason: str, lines: list[str], count: int) -> None:
    service = pb.ServiceStatus(name="web", reason=reason, last_exit=pb.Exit(log_lines=lines))
    status = bounded(pb.AssignmentStatus(node="n1", services=[service] * count))
    value = encode(status)
    assert len(value) <= REPORT_BYTES["AssignmentStatus"]
    assert bounded(status) is status
    assert decode(pb.AssignmentStatus, "/k", value) == status
    assert len(json.loads(value).get("services", [])) == count
