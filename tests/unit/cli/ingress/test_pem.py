"""Validation of certificates and keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from devopsellence.cli.ingress import pem
from devopsellence.cli.output import CliError
from tests.support.certificates import DAY, NOW, make_certificate

ROOT = make_certificate("Some Authority", ca=True)
MIDDLE = make_certificate("Some Authority R3", by=ROOT, ca=True)
LEAF = make_certificate("whatever", ["app.example.com", "*.Shop.example.com", "192.0.2.7"], by=MIDDLE)
CHAIN = LEAF.pem + MIDDLE.pem


def refused(certificates: bytes, key: bytes) -> str:
    with pytest.raises(CliError) as caught:
        pem.read_files(certificates, key, NOW)
    assert (caught.value.code, caught.value.exit_code) == ("invalid_certificate", 2)
    return caught.value.message


def test_chain_facts_are_read() -> None:
    certificate = pem.read_files(CHAIN, LEAF.key_pem(pkcs8=False), NOW)
    assert (certificate.issuer, certificate.serial) == ("Some Authority R3", LEAF.serial)
    assert (certificate.not_before, certificate.not_after) == (NOW - DAY, NOW + 90 * DAY)
    assert certificate.names == ("app.example.com", "*.shop.example.com")
    assert certificate.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert load_pem_private_key(certificate.key_pem, None).private_numbers() == LEAF.key.private_numbers()  # type: ignore[union-attr]
    assert certificate.chain_pem.encode() == CHAIN
    assert certificate.warnings == ()
    assert "PRIVATE" not in repr(certificate)


@pytest.mark.parametrize(
    ("host", "covers"),
    [
        ("app.example.com", True),
        ("a.shop.example.com", True),
        ("shop.example.com", False),
        ("a.b.shop.example.com", False),
        ("example.com", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
    ],
)
def test_certificate_covers_its_hosts(host: str, covers: bool) -> None:
    assert pem.read_files(CHAIN, LEAF.key_pem(), NOW).covers(host) is covers


@pytest.mark.parametrize(
    "key",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-384", "RSA 2048"],
)
def test_supported_keys_are_accepted(key: Callable[[], rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey]) -> None:
    leaf = make_certificate("a", ["a.example.com"], by=MIDDLE, key=key())
    assert pem.read_files(leaf.pem + MIDDLE.pem, leaf.key_pem(), NOW).serial == leaf.serial


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024), "RSA with 1024 bits"),  # noqa: S505
        (ed25519.Ed25519PrivateKey.generate, "browsers do not accept this type of key"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "browsers do not accept this type of key"),
    ],
    ids=["RSA 1024", "Ed25519", "secp256k1"],
)
def test_unsupported_keys_are_refused(key: Callable[[], ed25519.Ed25519PrivateKey], why: str) -> None:
    leaf = make_certificate("a", ["a.example.com"], key=key())
    assert why in refused(leaf.pem, leaf.key_pem())


def test_missing_intermediates_are_a_warning() -> None:
    assert "no intermediate certificates" in pem.read_files(LEAF.pem, LEAF.key_pem(), NOW).warnings[0]
    own = make_certificate("own", ["own.example.com"])
    assert pem.read_files(own.pem, own.key_pem(), NOW).warnings == ()


EXPIRED = make_certificate("old", ["a.example.com"], by=MIDDLE, begins=-9 * DAY, ends=-DAY)
EARLY = make_certificate("new", ["a.example.com"], by=MIDDLE, begins=DAY)
OLD_MIDDLE = make_certificate("Old R1", by=ROOT, ca=True, begins=-9 * DAY, ends=-DAY)
BELOW_OLD = make_certificate("b", ["a.example.com"], by=OLD_MIDDLE)
NAMELESS = make_certificate("app.example.com", by=MIDDLE)


@pytest.mark.parametrize(
    ("certificates", "key", "why"),
    [
        (b"", LEAF.key_pem(), "contains no certificate in PEM"),
        (LEAF.key_pem(), LEAF.key_pem(), "contains no certificate in PEM"),
        (CHAIN, b"nothing", "contains no private key in PEM"),
        (CHAIN, CHAIN, "contains no private key in PEM"),
        (CHAIN, LEAF.key_pem(password=b"x"), "protected by a passphrase"),
        (CHAIN, MIDDLE.key_pem(), "the key belongs to certificate 2 of the file; that certificate must come first"),
        (MIDDLE.pem + LEAF.pem, LEAF.key_pem(), "the key belongs to certificate 2 of the file"),
        (CHAIN, ROOT.key_pem(), "the key does not belong to the certificate"),
        (LEAF.pem + ROOT.pem, LEAF.key_pem(), "certificate 2 of the file (Some Authority) did not issue certificate 1"),
        (CHAIN + LEAF.pem, LEAF.key_pem(), "certificate 3 of the file (whatever) did not issue certificate 2"),
        (LEAF.pem * 11, LEAF.key_pem(), "contains 11 certificates"),
        (EXPIRED.pem, EXPIRED.key_pem(), "the certificate expired on "),
        (EARLY.pem, EARLY.key_pem(), "is not valid before "),
        (BELOW_OLD.pem + OLD_MIDDLE.pem, BELOW_OLD.key_pem(), "certificate 2 of the file expired"),
        (NAMELESS.pem, NAMELESS.key_pem(), "names no host"),
    ],
    ids=range(15),
)
def test_invalid_certificates_are_refused(certificates: bytes, key: bytes, why: str) -> None:
    message = refused(certificates, key)
    assert why in message
    assert "nothing was written" in message


def test_root_certificate_in_chain_is_accepted() -> None:
    assert pem.read_files(CHAIN + ROOT.pem, LEAF.key_pem(), NOW).serial == LEAF.serial
