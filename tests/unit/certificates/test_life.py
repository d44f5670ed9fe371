"""Times of renewals, and states of certificates."""

from __future__ import annotations

import datetime

import pytest

from devopsellence.certificates.life import CertificateState, Life

DAY = datetime.timedelta(days=1)
BEGIN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
LIFE = Life(BEGIN, BEGIN + 90 * DAY)


@pytest.mark.parametrize(
    ("days", "state"),
    [
        (0, CertificateState.OK),
        (59, CertificateState.OK),
        (60, CertificateState.RENEWAL_DUE),
        (74, CertificateState.RENEWAL_DUE),
        (75, CertificateState.EXPIRES_SOON),
        (89, CertificateState.EXPIRES_SOON),
        (90, CertificateState.EXPIRED),
        (900, CertificateState.EXPIRED),
    ],
)
def test_state_follows_the_share_of_life_that_is_over(days: int, state: CertificateState) -> None:
    assert LIFE.state(BEGIN + days * DAY) is state


def test_renewals_of_one_age_are_spread_over_three_days() -> None:
    moments = {LIFE.renewal_at(f"node:{number}") for number in range(200)}
    assert min(moments) >= LIFE.renewal_due
    assert max(moments) < LIFE.renewal_due + 3 * DAY
    assert max(moments) - min(moments) > 2 * DAY
    assert LIFE.renewal_at("node:1") == LIFE.renewal_at("node:1")
