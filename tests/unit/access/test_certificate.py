"""Serial numbers and validity of certificates, against the library that made them."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from devopsellence.access.certificate import Certificate, certificate_of, serial_number, validity
from tests.support.authority import Authority
from tests.support.certificates import DAY, make_certificate

MADE = make_certificate("a")


def test_serial_number_is_that_of_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for number in range(5):
        pem = authority.issue(f"operator:ann{number}").certificate.read_bytes()
        expected = x509.load_pem_x509_certificate(pem).serial_number
        assert serial_number(pem) == f"{expected:x}"


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"\xff", ssl.DER_cert_to_PEM_cert(b"0\0").encode()])
def test_no_certificate_has_no_serial_number(pem: bytes) -> None:
    assert serial_number(pem) == ""


@pytest.mark.parametrize("ends", [90 * DAY, 3000 * DAY, 10_000 * DAY])
def test_validity_is_that_of_the_first_certificate(ends: datetime.timedelta) -> None:
    made = make_certificate("operator:ann", ends=ends)
    expected = made.certificate.not_valid_before_utc, made.certificate.not_valid_after_utc
    assert validity(made.pem) == validity(made.pem + make_certificate("ca").pem) == expected


@pytest.mark.parametrize(
    "pem", [b"", b"nonsense", b"\xff", make_certificate("a").pem[:300], make_certificate("a").key_pem()]
)
def test_validity_of_what_is_no_certificate_is_an_error(pem: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        validity(pem)


@pytest.mark.parametrize(
    ("names", "expected"), [([b"operator:ann"], "operator:ann"), ([b"a", b"b"], ""), ([], ""), ([b"\xff"], "\\xff")]
)
def test_certificate_has_one_common_name(names: list[bytes], expected: str) -> None:
    assert certificate_of({"x509_common_name": names}) == Certificate(expected)
