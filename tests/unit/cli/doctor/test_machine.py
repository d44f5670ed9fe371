"""Expiry of certificates on this machine."""

from __future__ import annotations

import datetime

import pytest

from devopsellence.cli.doctor.machine import validity
from devopsellence.cli.output import NextAction

MEND = NextAction("renew it", "devopsellence dev up")


@pytest.mark.parametrize(
    ("left", "severity", "code"),
    [
        (datetime.timedelta(days=200), "ok", ""),
        (datetime.timedelta(days=20), "ok", ""),
        (datetime.timedelta(days=19), "warning", "certificate_expires"),
        (datetime.timedelta(seconds=1), "warning", "certificate_expires"),
        (datetime.timedelta(0), "error", "certificate_expired"),
    ],
)
def test_certificate_with_an_overdue_renewal_is_reported(left: datetime.timedelta, severity: str, code: str) -> None:
    check = validity("certificate", "/pki/tls.crt", left, MEND)
    assert (check.severity, check.code) == (severity, code)
    assert check.next_actions == ((MEND,) if code else ())


def test_certificate_expiry_is_shown_in_whole_days() -> None:
    left = datetime.timedelta(days=200, hours=23)
    assert validity("certificate", "/pki/tls.crt", left, MEND).message == "/pki/tls.crt expires in 200 days"
