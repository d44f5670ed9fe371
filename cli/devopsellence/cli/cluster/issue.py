"""The cluster's authority and what it signs. A party's key is never replaced unless somebody says so.

Everything may be repeated: what serves is kept, and a certificate that no longer does (it is old, or for other names)
is signed anew for the key that is there. A key that was made for somebody else, such as the machine that a node was
before, is not used on: that machine still has it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.cli.certificates.pki import (
    CertificateAuthority,
    CertificateError,
    CertificateRequest,
    common_name,
    load_certificate,
    load_key,
)
from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder, make_private
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.util.files import write_atomic

AUTHORITY_NAME: Final = "devopsellence cluster"


class IssueOutcome(StrEnum):
    """What was done about a bundle."""

    MADE = "made"
    KEPT = "kept"
    RENEWED = "renewed"


@dataclass(frozen=True)
class IssuedBundle:
    """A bundle, what was done about it, and why it had to be renewed or replaced."""

    bundle: CertificateBundle
    outcome: IssueOutcome
    why: str = ""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def establish(folder: ClusterFolder, at: datetime.datetime, *, force: bool = False) -> CertificateAuthority:
    """The folder's authority, made if there is none; call with the folder locked.

    ``force`` makes a new one, after which everybody's certificate has to be issued and carried anew.

    Raises:
        CliError: ``authority_unusable``: there is one that cannot be used.
    """
    if not force and (folder.authority_certificate.exists() or folder.authority_key.exists()):
        return load(folder)
    authority = CertificateAuthority.create(AUTHORITY_NAME, at)
    authority.issued.write(folder.authority_certificate, folder.authority_key)
    return authority


def load(folder: ClusterFolder) -> CertificateAuthority:
    """The folder's authority.

    Raises:
        CliError: ``authority_missing``: there is none. ``authority_unusable``.
    """
    if not (folder.authority_certificate.exists() or folder.authority_key.exists()):
        action = NextAction("make one", "devopsellence cluster init")
        raise CliError("authority_missing", f"there is no cluster authority in {folder.root}", next_actions=[action])
    try:
        return CertificateAuthority.load(folder.authority_certificate, folder.authority_key)
    except CertificateError as error:
        message = f"the cluster's authority in {folder.root} cannot be used: {error}"
        actions = [
            NextAction("restore both files, or say where they are", "devopsellence cluster init --pki <folder>"),
            NextAction("or begin anew, with new certificates for everybody", "devopsellence cluster init --force"),
        ]
        raise CliError("authority_unusable", message, next_actions=actions) from error


def issue(
    authority: CertificateAuthority,
    bundle: CertificateBundle,
    request: CertificateRequest,
    at: datetime.datetime,
    *,
    force: bool = False,
) -> IssuedBundle:
    """Make or renew a bundle; ``force`` also replaces its key. Call with the folder locked.

    Raises:
        CliError: ``key_unusable``: the key that is there cannot be read.
    """
    make_private(bundle.root)
    another = _whose_else(bundle, request)
    if force or another or not bundle.key.exists():
        authority.issue(request, at).write(bundle.certificate, bundle.key)
        outcome = IssuedBundle(bundle, IssueOutcome.MADE, f"it was for {another!r}" if another else "")
    elif why := _why_renew(authority, bundle, request, at):
        renewed = authority.issue(request, at, key=_key(bundle))
        write_atomic(bundle.certificate, renewed.certificate, mode=0o644)
        outcome = IssuedBundle(bundle, IssueOutcome.RENEWED, why)
    else:
        outcome = IssuedBundle(bundle, IssueOutcome.KEPT)
    write_atomic(bundle.authority, authority.issued.certificate, mode=0o644)
    return outcome


def _whose_else(bundle: CertificateBundle, request: CertificateRequest) -> str:
    """The common name of whom the certificate that is there is for, if that is somebody else; "" otherwise."""
    try:
        name = common_name(load_certificate(bundle.certificate))
    except CertificateError:
        return ""
    return name if name != request.common_name else ""


def _why_renew(
    authority: CertificateAuthority, bundle: CertificateBundle, request: CertificateRequest, at: datetime.datetime
) -> str:
    """Why the certificate that is there no longer serves; "" when it does."""
    key = _key(bundle)
    try:
        certificate = load_certificate(bundle.certificate)
    except CertificateError as error:
        return str(error)
    if certificate.public_key() != key.public_key():
        return "it is for another key"
    return authority.why_renew(certificate, request, at)


def _key(bundle: CertificateBundle) -> ec.EllipticCurvePrivateKey:
    try:
        return load_key(bundle.key)
    except CertificateError as error:
        action = NextAction("replace it", "the same command with --force")
        raise CliError("key_unusable", str(error), next_actions=[action]) from error
