"""Entries of the deny-list that may be written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from devopsellence.access.denied import InvalidDenial, check_denial, drop_expired
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList


@pytest.mark.parametrize(
    "entry",
    [
        *({}, {"name": "root"}, {"name": "controller"}, {"name": "operator:"}, {"name": "etcd"}),
        *(
            {"name": "operator:a", "serial": "1"},
            {"serial": "0"},
            {"serial": "AB"},
            {"serial": "0a"},
            {"serial": "xyz"},
        ),
    ],
)
def test_entry_that_denies_nothing_or_too_much_is_refused(entry: dict[str, str]) -> None:
    with pytest.raises(InvalidDenial):
        check_denial(DeniedCertificate(**entry))  # type: ignore[arg-type]
    check_denial(DeniedCertificate(name="operator:ann"))
    check_denial(DeniedCertificate(serial="a" * 40))


def test_entry_is_dropped_a_day_after_the_end_of_its_certificate() -> None:
    end = datetime(2026, 3, 1, 12, tzinfo=UTC)
    known, unknown = DeniedCertificate(serial="1"), DeniedCertificate(serial="2")
    known.expires_at.FromDatetime(end)
    denied = DenyList(certificates=[known, unknown, DeniedCertificate(name="operator:ann")])
    drop_expired(denied, end + timedelta(hours=23))
    assert len(denied.certificates) == 3
    drop_expired(denied, end + timedelta(hours=25))
    assert [entry.serial or entry.name for entry in denied.certificates] == ["2", "operator:ann"]
