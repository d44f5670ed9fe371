"""Backoff until the next attempt, and advice in failures."""

from __future__ import annotations

import pytest

from devopsellence.controller.certificates.failure import FailureKind, IssuanceFailure, IssuancePace, backoff

PACE = IssuancePace()
PLAIN = IssuanceFailure(FailureKind.OTHER, "no")


def test_from_minute_to_day() -> None:
    delays = [backoff(PLAIN, failures, "app.example.com", PACE) for failures in range(1, 2000)]
    assert 45 <= delays[0] <= 60
    assert delays == sorted(delays)
    assert delays[1] == pytest.approx(2 * delays[0])
    assert 18 * 3600 <= delays[-1] <= 24 * 3600


def test_hosts_that_failed_together_are_not_tried_together() -> None:
    delays = {backoff(PLAIN, 5, f"h{number}.example.com", PACE) for number in range(200)}
    assert len(delays) == 200
    assert backoff(PLAIN, 5, "h1.example.com", PACE) == backoff(PLAIN, 5, "h1.example.com", PACE)


@pytest.mark.parametrize(
    ("asked_for", "least", "most"),
    [(0.0, 45.0, 60.0), (10.0, 45.0, 60.0), (5000.0, 5000.0, 5000.0), (1e9, 7 * 86400.0, 7 * 86400.0)],
    ids=["nothing", "less", "more", "years"],
)
def test_authoritys_own_delay_is_honoured(asked_for: float, least: float, most: float) -> None:
    found = backoff(IssuanceFailure(FailureKind.RATE_LIMITED, "too many", asked_for), 1, "a.example.com", PACE)
    assert least <= found <= most


@pytest.mark.parametrize("kind", list(FailureKind), ids=lambda kind: kind.value)
def test_failure_sentence_has_cause_host_and_advice(kind: FailureKind) -> None:
    sentence = IssuanceFailure(kind, "the authority refused").sentence("app.example.com")
    assert sentence.startswith("the authority refused")
    assert "{" not in sentence
    assert (kind is FailureKind.OTHER) == (sentence == "the authority refused")
