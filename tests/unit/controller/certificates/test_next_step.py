"""Next step for the certificate of one host, case by case."""

from __future__ import annotations

from datetime import UTC, timedelta

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates import next_step, record
from devopsellence.controller.certificates.demand import CertificateDemand
from devopsellence.controller.certificates.failure import FailureKind, IssuanceFailure, IssuancePace
from devopsellence.controller.certificates.next_step import CertificateStep, CertificateStepKind
from tests.unit.controller.builders import START, moment
from tests.unit.controller.certificate_builders import (
    blank,
    csr,
    demand,
    obtained,
    recipient,
    server,
    signing_request,
    under_way,
)

DAY = 24 * 3600.0
PACE = IssuancePace()
INSTALLED = pb.Certificate.INSTALLED


def decide(
    wanted: CertificateDemand,
    certificate: pb.Certificate,
    *,
    seconds: float = 0,
    asked: float = 1000.0,
    recipients: int = 1,
) -> CertificateStep:
    """``asked``: the monotonic second; the tests' time begins at 1000."""
    keys = frozenset(recipient(number) for number in range(recipients))
    return next_step.decide(wanted, certificate, moment(seconds), asked, keys, PACE)


def test_first_able_node_creates_key_for_host_without_certificate() -> None:
    wanted = demand(server(0, answers=False), server(1, keyless=True), server(2), server(3))
    step = decide(wanted, blank())
    assert (step.kind, step.node, step.reason) == (CertificateStepKind.ASK, "n2", "the host has no certificate yet")


@pytest.mark.parametrize(
    "wanted",
    [demand(server(0, answers=False)), demand(server(0, keyless=True))],
    ids=["all are silent", "none has a key"],
)
def test_key_request_waits_for_reachable_node(wanted: CertificateDemand) -> None:
    assert decide(wanted, blank()).kind is CertificateStepKind.WAIT


@pytest.mark.parametrize(
    ("days", "due_after"),
    [(90, 60 * DAY), (60, 40 * DAY), (6, 4 * DAY), (365, 335 * DAY), (1 / 24, 2400.0)],
    ids=["90 days", "60 days", "6 days", "a year", "an hour"],
)
def test_renewed_30_days_or_third_ahead(days: float, due_after: float) -> None:
    wanted = demand(server(0))
    before = decide(wanted, obtained(days=days), seconds=due_after - 10)
    assert before.kind is CertificateStepKind.WAIT
    assert before.recheck_after == pytest.approx(10)
    due = decide(wanted, obtained(days=days), seconds=due_after)
    assert (due.kind, due.node) == (CertificateStepKind.ASK, "n0")
    assert "the certificate ends at" in due.reason


def test_installed_certificate_is_renewed_in_its_last_third_in_auto_mode() -> None:
    wanted = demand(server(0), server(1))
    assert decide(wanted, obtained(source=INSTALLED), seconds=59 * DAY).kind is CertificateStepKind.WAIT
    assert decide(wanted, obtained(source=INSTALLED), seconds=60 * DAY).kind is CertificateStepKind.ASK


def test_node_that_cannot_decrypt_key_is_reason_to_renew() -> None:
    step = decide(demand(server(0), server(1), server(2, keyless=True)), obtained(recipient(0)))
    assert step.kind is CertificateStepKind.ASK
    assert step.reason == "its key is not encrypted for n1, which serves the host"


@pytest.mark.parametrize("source", [pb.Certificate.ACME, INSTALLED])
@pytest.mark.parametrize("days", [90, -1], ids=["valid", "expired"])
def test_modes_other_than_auto_keep_and_order_nothing(source: pb.Certificate.Source.ValueType, days: int) -> None:
    assert decide(demand(server(0), account=None), obtained(days=days, source=source)) == CertificateStep(
        CertificateStepKind.WAIT
    )


def test_issuance_stops_when_tls_mode_changes() -> None:
    wanted = demand(server(0), account=None)
    stopped = decide(wanted, under_way("CHALLENGE", obtained()))
    assert (stopped.kind, stopped.certificate) == (CertificateStepKind.WRITE, obtained())
    assert decide(wanted, under_way("CHALLENGE")).kind is CertificateStepKind.DELETE


@pytest.mark.parametrize(
    ("certificate", "do"),
    [
        (obtained(), CertificateStepKind.DELETE),
        (under_way("KEY"), CertificateStepKind.DELETE),
        (under_way("KEY", obtained()), CertificateStepKind.DELETE),
        (obtained(source=INSTALLED), CertificateStepKind.WAIT),
        (under_way("BACKOFF", obtained(source=INSTALLED)), CertificateStepKind.WRITE),
    ],
    ids=["obtained", "first under way", "renewal under way", "installed", "installed, renewal under way"],
)
def test_unused_record_is_deleted_unless_installed(certificate: pb.Certificate, do: CertificateStepKind) -> None:
    step = decide(demand(named=False), certificate)
    assert step.kind is do
    if step.certificate is not None:
        assert step.certificate == obtained(source=INSTALLED)


def test_unserved_host_keeps_its_record() -> None:
    assert decide(demand(named=True), obtained()) == CertificateStep(CertificateStepKind.WAIT)


def test_signing_request_is_accepted_and_then_ordered_with() -> None:
    request = signing_request()
    wanted = demand(server(0, requests=[request]))
    step = decide(wanted, under_way("KEY"))
    assert step.kind is CertificateStepKind.WRITE
    assert step.certificate is not None
    assert step.certificate.issuance.phase == pb.Issuance.ORDER
    for phase in ("ORDER", "CHALLENGE", "FINALIZE"):
        again = decide(wanted, under_way(phase))
        assert (again.kind, again.request) == (CertificateStepKind.ATTEMPT, request)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (signing_request(host="evil.example.com"), "it is for evil.example.com"),
        (signing_request(recipients=[recipient(0), recipient(7)]), "not encrypted for"),
        (pb.SigningRequest(id="id-1", csr_pem="nonsense", key_age="k", recipients=[recipient(0)]), "cannot be read"),
        (pb.SigningRequest(id="id-1", csr_pem=csr("app.example.com"), recipients=[recipient(0)]), "not encrypted for"),
    ],
    ids=["another host", "another reader", "nonsense", "no key"],
)
def test_signing_request_that_was_not_asked_for_is_refused(request_: pb.SigningRequest, why: str) -> None:
    step = decide(demand(server(0, requests=[request_])), under_way("KEY"))
    assert step.kind is CertificateStepKind.FAIL
    assert step.failure is not None
    assert "the signing request of node n0 for app.example.com is rejected" in step.failure.detail
    assert why in step.failure.detail


def test_another_nodes_answer_and_answer_to_another_request_do_not_count() -> None:
    for wanted in (
        demand(server(0), server(1, requests=[signing_request()])),
        demand(server(0, requests=[signing_request("id-0")])),
    ):
        assert decide(wanted, under_way("KEY")).kind is CertificateStepKind.WAIT


def test_node_that_goes_unreachable_is_not_waited_for() -> None:
    silent = server(0, answers=False)
    step = decide(demand(silent, server(1)), under_way("KEY"))
    assert (step.kind, step.node, step.reason) == (
        CertificateStepKind.ASK,
        "n1",
        "n0 is not reachable to create the key",
    )
    assert decide(demand(server(1)), under_way("KEY")).node == "n1"
    assert decide(demand(silent), under_way("KEY")).kind is CertificateStepKind.WAIT


def test_node_that_is_there_and_creates_no_key_fails_and_next_one_is_asked() -> None:
    wanted = demand(server(0), server(1))
    waiting = decide(wanted, under_way("KEY"), seconds=119, asked=1000)
    assert waiting.kind is CertificateStepKind.WAIT
    assert waiting.recheck_after == pytest.approx(1)
    step = decide(wanted, under_way("KEY"), seconds=120, asked=1000)
    assert step.kind is CertificateStepKind.FAIL
    assert step.failure is not None
    assert step.failure.sentence("x") == "node n0 has not created a key within 120 s; see devopsellence status"
    assert decide(wanted, under_way("BACKOFF", failures=1)).node == "n1"
    assert decide(wanted, under_way("BACKOFF", failures=2)).node == "n0"


def test_node_that_comes_meanwhile_is_sealed_for_as_well() -> None:
    step = decide(demand(server(0), server(1)), under_way("KEY"), recipients=2)
    assert (step.kind, step.reason) == (CertificateStepKind.ASK, "the key is to be encrypted for more nodes")


def test_signing_request_that_is_gone_is_asked_for_again() -> None:
    step = decide(demand(server(0), server(1)), under_way("CHALLENGE"))
    assert (step.kind, step.reason) == (CertificateStepKind.ASK, "the signing request of n0 is gone")


def test_after_failure_it_waits_and_keeps_what_is_served() -> None:
    failure = IssuanceFailure(FailureKind.UNREACHABLE, "acme.example.com cannot be reached")
    failed = next_step.failed(under_way("CHALLENGE", obtained()), failure, START, PACE)
    assert failed.serial == "abc"
    assert not failed.issuance.HasField("key_request")
    assert failed.issuance.reason.startswith("acme.example.com cannot be reached; ")
    left = (failed.issuance.next_attempt_at.ToDatetime(tzinfo=UTC) - START).total_seconds()
    assert 45 <= left <= 60
    wanted = demand(server(0))
    waiting = decide(wanted, failed)
    assert waiting.kind is CertificateStepKind.WAIT
    assert waiting.recheck_after == pytest.approx(left, abs=1)
    assert decide(wanted, failed, seconds=60).kind is CertificateStepKind.ASK
    assert next_step.failed(failed, failure, START, PACE).issuance.failures == 2


def test_nodes_missing_challenge_are_named() -> None:
    tokens = frozenset({"a", "b"})
    whole, half = server(0, tokens=["a", "b"]), server(1, tokens=["a"])
    away = server(2, answers=False)
    assert next_step.not_served([whole, away], tokens) == []
    assert next_step.not_served([whole, half, away], tokens) == ["n1"]
    assert next_step.not_served([away], tokens) == ["n2"]


def test_served_certificate_changes_only_in_last_step() -> None:
    before = obtained()
    asked = record.asked(before, "id-2", "n1", [recipient(1), recipient(0), recipient(1)], "because", START)
    assert list(asked.issuance.key_request.recipients) == sorted([recipient(0), recipient(1)])
    challenges = [pb.Challenge(token=token, key_authorization=token) for token in ("b", "a")]
    for made in (
        asked,
        record.ordering(asked, START),
        record.challenged(asked, challenges, "", START),
        record.finalizing(asked, START),
        record.failed(asked, IssuanceFailure(FailureKind.OTHER, "no"), 1, START),
    ):
        assert record.stopped(made) == before
    challenged = record.challenged(asked, challenges, "", START)
    assert [challenge.token for challenge in challenged.issuance.challenges] == ["a", "b"]
    assert [
        challenge.token for challenge in record.challenged(challenged, challenges[:1], "", START).issuance.challenges
    ] == ["b"]
    assert before == obtained()


def test_steps_lead_from_nothing_to_certificate_and_renewal() -> None:
    """Each step's record is the next one's; nothing but the record is kept in between."""
    certificate, answered = blank(), signing_request(recipients=[recipient(0)])
    for seconds in (0.0, 60 * DAY):
        step = decide(demand(server(0)), certificate, seconds=seconds)
        assert step.kind is CertificateStepKind.ASK
        certificate = record.asked(certificate, "id-1", step.node, [recipient(0)], step.reason, START)
        step = decide(demand(server(0, requests=[answered])), certificate, seconds=seconds, asked=1000 + seconds)
        assert step.certificate is not None
        certificate = step.certificate
        assert (
            decide(demand(server(0, requests=[answered])), certificate, seconds=seconds).kind
            is CertificateStepKind.ATTEMPT
        )
        certificate = obtained()
        assert decide(demand(server(0)), certificate, seconds=1).recheck_after == pytest.approx(60 * DAY - 1)
    assert next_step.renewal_at(certificate) == START + timedelta(days=60)
