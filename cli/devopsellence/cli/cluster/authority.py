"""Authorities of a cluster's folder: the root, whose key has a passphrase, and the issuing authority that signs leaves.

The passphrase is needed to create the root and, once in eight months, a new issuing authority: nothing else uses the
root's key. Clusters of earlier versions have a root that signs leaves itself, without a passphrase.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.facts import why_expires
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.pem import CertificateError, encrypted_key, is_encrypted, load_certificate
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.output import CliError, NextAction

AUTHORITY_NAME: Final = "devopsellence cluster"
ISSUING_NAME: Final = "devopsellence cluster issuing"


@dataclass(frozen=True)
class Passphrase:
    """Source of the root key's passphrase: ``choose`` a new one ("": none), or ``enter`` that of an existing key."""

    choose: Callable[[], str]
    enter: Callable[[], str]


def establish(
    folder: ClusterFolder, at: datetime.datetime, passphrase: Passphrase, *, force: bool = False
) -> CertificateAuthority:
    """Return the authority that signs leaves, created or renewed if needed; call with the folder locked.

    ``force`` creates a new root; afterwards, all certificates must be issued and copied again.

    Raises:
        CliError: ``authority_unusable``: the existing authority cannot be used. What ``passphrase`` raises.
    """
    if force or not _exists(folder):
        _end_rotation(folder)
        return create(folder, at, passphrase)
    if folder.issuing_certificate.exists():
        issuing = _load(folder)
        if not why_expires(issuing.certificate, at):
            return issuing
    try:
        entered = passphrase.enter() if is_encrypted(folder.authority_key) else ""
        root = CertificateAuthority.load(folder.authority_certificate, folder.authority_key, passphrase=entered)
    except CertificateError as error:
        raise _unusable(folder, error) from error
    return _with_others(_issuing_by(root, folder, at) if root.can_create_issuing else root, folder)


def load(folder: ClusterFolder, at: datetime.datetime) -> CertificateAuthority:
    """Return the authority that signs leaves.

    Raises:
        CliError: ``authority_missing``, ``authority_unusable``, ``authority_expired``.
    """
    if not _exists(folder):
        action = NextAction("create the CA", "devopsellence cluster init")
        raise CliError("authority_missing", f"there is no cluster CA in {folder.root}", next_actions=[action])
    authority = _load(folder)
    if authority.life.ends <= at:
        action = NextAction("renew it", "devopsellence cluster init")
        message = f"the authority in {folder.root} that signs certificates has expired"
        raise CliError("authority_expired", message, next_actions=[action])
    return authority


def _exists(folder: ClusterFolder) -> bool:
    files = (folder.authority_certificate, folder.authority_key, folder.issuing_certificate)
    return any(file.exists() for file in files)


def create(folder: ClusterFolder, at: datetime.datetime, passphrase: Passphrase) -> CertificateAuthority:
    """Create a root and an issuing authority in a folder that exists; return the latter.

    Raises:
        What ``passphrase`` raises; nothing is written then.
    """
    root = CertificateAuthority.create(AUTHORITY_NAME, at)
    chosen = passphrase.choose()
    key = encrypted_key(root.issued.key, chosen) if chosen else root.issued.key
    KeyPair(root.issued.certificate, key).write(folder.authority_certificate, folder.authority_key)
    return _issuing_by(root, folder, at)


def _issuing_by(root: CertificateAuthority, folder: ClusterFolder, at: datetime.datetime) -> CertificateAuthority:
    issuing = root.create_issuing(ISSUING_NAME, at)
    issuing.issued.write(folder.issuing_certificate, folder.issuing_key)
    return issuing


def _load(folder: ClusterFolder) -> CertificateAuthority:
    try:
        if not folder.issuing_certificate.exists():
            return _with_others(CertificateAuthority.load(folder.authority_certificate, folder.authority_key), folder)
        issuing = CertificateAuthority.load(
            folder.issuing_certificate, folder.issuing_key, trusted=folder.authority_certificate
        )
        return _with_others(issuing, folder)
    except CertificateError as error:
        raise _unusable(folder, error) from error


def _with_others(authority: CertificateAuthority, folder: ClusterFolder) -> CertificateAuthority:
    """Trust the other root of a rotation, too."""
    others = (folder.next.authority_certificate, folder.former_certificate)
    authority.also_trusted = tuple(load_certificate(path) for path in others if path.exists())
    return authority


def _end_rotation(folder: ClusterFolder) -> None:
    for path in (folder.former_certificate, folder.former_key):
        path.unlink(missing_ok=True)
    if folder.next.root.exists():
        shutil.rmtree(folder.next.root)


def _unusable(folder: ClusterFolder, error: CertificateError) -> CliError:
    message = f"the cluster CA in {folder.root} cannot be used: {error}"
    actions = [
        NextAction("restore its files, or give their folder", "devopsellence cluster init --pki <folder>"),
        NextAction("or replace the CA and all certificates", "devopsellence cluster init --force"),
    ]
    return CliError("authority_unusable", message, next_actions=actions)
