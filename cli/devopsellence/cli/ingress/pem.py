"""A certificate and its key as somebody brings them: what they hold, and whether they do for a host. No IO.

Imports cryptography: import it late.
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
#: What Envoy serves with (its TLS documentation names these for ECDSA).
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_MAX_CHAIN: Final = 10


@dataclass(frozen=True)
class InstallableCertificate:
    """A certificate that can be served. ``key_pem`` is PKCS #8, and in no ``repr``; ``serial`` is lower-case hex.

    ``names`` are those that it covers, wildcards as such; ``addresses`` likewise.
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
        """Whether it is for ``host``."""
        return covered(host, self.names, self.addresses)


def read_files(certificates: bytes, key: bytes, now: datetime.datetime) -> InstallableCertificate:
    """What the two files hold, if it can be served at ``now``.

    Raises:
        CliError: ``invalid_certificate`` (exit code 2): says what is wrong, and holds nothing of the key.
    """
    chain = _chain(certificates)
    private = _key(key)
    leaf = chain[0]
    _same_key(chain, private)
    for number, (each, issuer) in enumerate(pairwise(chain), start=1):
        _issued(each, issuer, number)
    if not leaf.not_valid_before_utc <= now:
        raise invalid_certificate(f"the certificate is not valid before {_day(leaf.not_valid_before_utc)}")
    for number, each in enumerate(chain, start=1):
        if each.not_valid_after_utc <= now:
            which = "the certificate" if number == 1 else f"certificate {number} of the file"
            raise invalid_certificate(f"{which} has expired on {_day(each.not_valid_after_utc)}")
    names, addresses = subjects(leaf)
    if not names and not addresses:
        raise invalid_certificate(
            "the certificate names no host (it has no subjectAltName; the common name counts no more)"
        )
    warnings = []
    if len(chain) == 1 and leaf.issuer != leaf.subject:
        warnings.append(
            "the certificate stands alone: clients that do not know its issuer will not trust it; "
            "put the intermediate certificates after it (often the file fullchain.pem)"
        )
    return InstallableCertificate(
        chain_pem="".join(each.public_bytes(Encoding.PEM).decode() for each in chain),
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
    """The DNS names (in lower case) and the IP addresses that it is for."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return (), ()
    names = tuple(name.lower() for name in alternative.get_values_for_type(x509.DNSName))
    return names, tuple(str(each) for each in alternative.get_values_for_type(x509.IPAddress))


def covered(host: str, names: Collection[str], addresses: Collection[str]) -> bool:
    """Whether ``host`` is among them; a wildcard stands for one label (RFC 6125, section 6.4.3)."""
    try:
        return str(ipaddress.ip_address(host)) in addresses
    except ValueError:
        _, _, parent = host.partition(".")
        return host in names or (bool(parent) and f"*.{parent}" in names)


def issuer_of(certificate: x509.Certificate) -> str:
    """Its authority's common name, else the whole name."""
    found = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.issuer.rfc4514_string()


def invalid_certificate(what: str) -> CliError:
    """The error for files that cannot be served."""
    return CliError("invalid_certificate", f"{what}; nothing was written", exit_code=2)


def _chain(pem: bytes) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise invalid_certificate(
            "the certificate file holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from error
    if len(chain) > _MAX_CHAIN:
        raise invalid_certificate(
            f"the certificate file holds {len(chain)} certificates; a chain has at most {_MAX_CHAIN}"
        )
    return chain


def _key(pem: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    # Not from the library's errors: they may quote what they could not read.
    try:
        found = load_pem_private_key(pem, password=None)
    except TypeError:
        mend = NextAction("take the passphrase off", "openssl pkey -in KEY-FILE -out key.pem")
        message = "the key is protected by a passphrase; nothing was written"
        raise CliError("invalid_certificate", message, exit_code=2, next_actions=[mend]) from None
    except (ValueError, UnsupportedAlgorithm):
        raise invalid_certificate("the key file holds no private key in PEM (-----BEGIN PRIVATE KEY-----)") from None
    if isinstance(found, rsa.RSAPrivateKey):
        if found.key_size < _LEAST_RSA:
            raise invalid_certificate(f"the key is RSA with {found.key_size} bits; clients want at least {_LEAST_RSA}")
        return found
    if isinstance(found, ec.EllipticCurvePrivateKey) and isinstance(found.curve, _CURVES):
        return found
    raise invalid_certificate(
        "the key is of a kind that browsers do not accept; make one that is RSA (2048 bits) or EC (P-256)"
    )


def _same_key(chain: Sequence[x509.Certificate], key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    ours = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fits = [each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == ours for each in chain]
    if fits[0]:
        return
    if any(fits):
        place = fits.index(True) + 1
        raise invalid_certificate(f"the key belongs to certificate {place} of the file, which must come first")
    raise invalid_certificate("the key does not belong to the certificate")


def _issued(each: x509.Certificate, issuer: x509.Certificate, number: int) -> None:
    try:
        each.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        what = f"certificate {number + 1} of the file ({_common_name(issuer)}) did not issue certificate {number}"
        raise invalid_certificate(f"{what}: put the host's first, then each one's issuer") from error


def _common_name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.subject.rfc4514_string()


def _day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
