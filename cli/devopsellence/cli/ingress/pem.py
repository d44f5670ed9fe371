"""Validation of a certificate chain and private key in PEM. No IO.

Imports cryptography, which is slow: import this module late.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from devopsellence.cli.output import CliError, NextAction

_LEAST_RSA: Final = 2048
#: Curves supported by Envoy (its TLS documentation names these for ECDSA).
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_MAX_CHAIN: Final = 10


@dataclass(frozen=True)
class InstallableCertificate:
    """Valid certificate with its key. ``key_pem`` is PKCS #8 and not in ``repr``; ``serial`` is lower-case hex.

    ``names`` (with wildcards) and ``addresses`` are the subjects of the certificate.
    """

    chain_pem: str
    key_pem: bytes = field(repr=False)
    serial: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def covers(self, host: str) -> bool:
        """Return True if the certificate is valid for ``host``."""
        return covered(host, self.names, self.addresses)


def read_files(certificates: bytes, key: bytes, now: datetime.datetime) -> InstallableCertificate:
    """Parse and validate the contents of a certificate file and a key file.

    Raises:
        CliError: ``invalid_certificate`` (exit code 2): with the reason, without any part of the key.
    """
    chain = _chain(certificates)
    private = _key(key)
    leaf = chain[0]
    _check_key_matches(chain, private)
    for number, (certificate, issuer) in enumerate(pairwise(chain), start=1):
        _check_issuer(certificate, issuer, number)
    if not leaf.not_valid_before_utc <= now:
        raise invalid_certificate(f"the certificate is not valid before {_day(leaf.not_valid_before_utc)}")
    for number, certificate in enumerate(chain, start=1):
        if certificate.not_valid_after_utc <= now:
            which = "the certificate" if number == 1 else f"certificate {number} of the file"
            raise invalid_certificate(f"{which} expired on {_day(certificate.not_valid_after_utc)}")
    names, addresses = subjects(leaf)
    if not names and not addresses:
        raise invalid_certificate("the certificate names no host (no subjectAltName; clients ignore the common name)")
    warnings = []
    if len(chain) == 1 and leaf.issuer != leaf.subject:
        warnings.append(
            "the file has no intermediate certificates, so some clients will not trust the certificate; "
            "append the intermediate certificates (often the file fullchain.pem)"
        )
    return InstallableCertificate(
        chain_pem="".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain),
        key_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        serial=f"{leaf.serial_number:x}",
        issuer=issuer_of(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        names=names,
        addresses=addresses,
        warnings=tuple(warnings),
    )


def subjects(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the DNS names (in lower case) and the IP addresses of a certificate."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return (), ()
    names = tuple(name.lower() for name in alternative.get_values_for_type(x509.DNSName))
    return names, tuple(str(address) for address in alternative.get_values_for_type(x509.IPAddress))


def covered(host: str, names: Collection[str], addresses: Collection[str]) -> bool:
    """Return True if ``host`` matches; a wildcard matches a single label (RFC 6125, section 6.4.3)."""
    try:
        return str(ipaddress.ip_address(host)) in addresses
    except ValueError:
        _, _, parent = host.partition(".")
        return host in names or (bool(parent) and f"*.{parent}" in names)


def issuer_of(certificate: x509.Certificate) -> str:
    """Return the common name of the issuer, else the whole name."""
    attributes = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if attributes else certificate.issuer.rfc4514_string()


def invalid_certificate(message: str) -> CliError:
    """Return the error for an invalid certificate or key."""
    return CliError("invalid_certificate", f"{message}; nothing was written", exit_code=2)


def _chain(pem: bytes) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise invalid_certificate(
            "the certificate file contains no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from error
    if len(chain) > _MAX_CHAIN:
        raise invalid_certificate(
            f"the certificate file contains {len(chain)} certificates; the maximum is {_MAX_CHAIN}"
        )
    return chain


def _key(pem: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    # Without the library's error as cause, which may quote parts of the key.
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        fix = NextAction("remove the passphrase", "openssl pkey -in KEY-FILE -out key.pem")
        message = "the key is protected by a passphrase; nothing was written"
        raise CliError("invalid_certificate", message, exit_code=2, next_actions=[fix]) from None
    except (ValueError, UnsupportedAlgorithm):
        raise invalid_certificate("the key file contains no private key in PEM (-----BEGIN PRIVATE KEY-----)") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _LEAST_RSA:
            raise invalid_certificate(f"the key is RSA with {key.key_size} bits; clients require at least {_LEAST_RSA}")
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise invalid_certificate("browsers do not accept this type of key; use RSA (2048 bits) or EC (P-256)")


def _check_key_matches(chain: Sequence[x509.Certificate], key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    key_bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fits = [
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key_bytes
        for certificate in chain
    ]
    if fits[0]:
        return
    if any(fits):
        place = fits.index(True) + 1
        raise invalid_certificate(
            f"the key belongs to certificate {place} of the file; that certificate must come first"
        )
    raise invalid_certificate("the key does not belong to the certificate")


def _check_issuer(certificate: x509.Certificate, issuer: x509.Certificate, number: int) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        message = f"certificate {number + 1} of the file ({_common_name(issuer)}) did not issue certificate {number}"
        raise invalid_certificate(
            f"{message}: put the certificate of the host first, then its issuer, and so on"
        ) from error


def _common_name(certificate: x509.Certificate) -> str:
    attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if attributes else certificate.subject.rfc4514_string()


def _day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
