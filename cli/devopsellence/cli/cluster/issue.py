"""Certificates signed by the cluster's authority. Keys are never replaced without ``--force``.

Idempotent: valid certificates are kept; a certificate that is old or has other names is renewed for the existing key. A
key created for another subject, such as the former machine of a node, is replaced, because that machine still has it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.atomic_file import write_atomic
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateRequest
from devopsellence.certificates.facts import common_name
from devopsellence.certificates.pem import CertificateError, load_certificate, load_key
from devopsellence.cli.cluster.folder import CertificateBundle, make_private
from devopsellence.cli.cluster.signer import Signer
from devopsellence.cli.output import CliError, NextAction
from devopsellence.client_certificate import is_signed_under


class IssueOutcome(StrEnum):
    """Change to a bundle, also in JSON."""

    MADE = "made"
    KEPT = "kept"
    RENEWED = "renewed"


@dataclass(frozen=True)
class IssuedBundle:
    """Bundle after ``issue``, with the reason for a renewal or replacement."""

    bundle: CertificateBundle
    outcome: IssueOutcome
    why: str = ""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def issue(
    signer: Signer,
    bundle: CertificateBundle,
    request: CertificateRequest,
    at: datetime.datetime,
    *,
    force: bool = False,
) -> IssuedBundle:
    """Create or renew a bundle; ``force`` also replaces its key. Call with the folder locked.

    Raises:
        CliError: ``key_unusable``: the existing key cannot be read.
    """
    make_private(bundle.root)
    former = _former_subject(bundle, request)
    if force or former or not bundle.key.exists():
        signer.issue(request, at).write(bundle.certificate, bundle.key)
        issued = IssuedBundle(bundle, IssueOutcome.MADE, f"the old one was for {former!r}" if former else "")
    elif why := _why_renew(signer, bundle, request, at):
        renewed = signer.issue(request, at, key=_key(bundle))
        write_atomic(bundle.certificate, renewed.certificate, mode=0o644)
        issued = IssuedBundle(bundle, IssueOutcome.RENEWED, why)
    else:
        issued = IssuedBundle(bundle, IssueOutcome.KEPT)
    write_atomic(bundle.authority, signer.trusted, mode=0o644)
    return issued


def operator_request(name: str, *, fixed_term: bool = False) -> CertificateRequest:
    """Return the request for the certificate of an operator; ``fixed_term``: of a token.

    Raises:
        CliError: ``invalid_name`` (exit code 2).
    """
    try:
        return subjects.operator(name, fixed_term=fixed_term)
    except CertificateError as error:
        raise CliError("invalid_name", str(error), exit_code=2) from error


def _former_subject(bundle: CertificateBundle, request: CertificateRequest) -> str:
    """Return the common name of the existing certificate if unlike that of ``request``; "" otherwise."""
    try:
        name = common_name(load_certificate(bundle.certificate))
    except CertificateError:
        return ""
    return name if name != request.common_name else ""


def _why_renew(signer: Signer, bundle: CertificateBundle, request: CertificateRequest, at: datetime.datetime) -> str:
    """Return the reason for a renewal of the existing certificate; "" for none."""
    key = _key(bundle)
    try:
        certificate = load_certificate(bundle.certificate)
    except CertificateError as error:
        return str(error)
    if certificate.public_key() != key.public_key():
        return "certificate and key do not match"
    why = signer.why_renew(certificate, request, at)
    if not (why or is_signed_under(signer.trusted.decode("ascii"), bundle.certificate, bundle.key)):
        return "not signed by this CA"
    return why


def _key(bundle: CertificateBundle) -> ec.EllipticCurvePrivateKey:
    try:
        return load_key(bundle.key)
    except CertificateError as error:
        action = NextAction("replace the key", "the same command with --force")
        raise CliError("key_unusable", str(error), next_actions=[action]) from error
