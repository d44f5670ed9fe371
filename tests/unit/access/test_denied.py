"""Entries of the deny-list that may be written."""

from __future__ import annotations

import pytest

from devopsellence.access.denied import InvalidDenial, check_denial
from devopsellence.api.v1.stored_pb2 import DeniedCertificate


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
