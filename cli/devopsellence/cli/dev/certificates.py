"""Certificates of the local cluster: a certificate authority, and a certificate for each client of etcd."""

from __future__ import annotations

import datetime
import hashlib
from typing import Final

from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.certificates.facts import why_expires
from devopsellence.certificates.pem import CertificateError, load_certificate
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.state import CONTROLLER, NODE, OPERATOR

AUTHORITY: Final = "ca"
MEMBER: Final = "etcd"


def requests(node_name: str, node_uid: str) -> dict[str, CertificateRequest]:
    """Return the certificates of the cluster, by file name."""
    return {
        MEMBER: subjects.member(),
        OPERATOR: subjects.root(),
        CONTROLLER: subjects.controller(),
        NODE: subjects.node(node_name, node_uid),
    }


def ensure(layout: DevLayout, node_name: str, node_uid: str, now: datetime.datetime) -> dict[str, str]:
    """Create or renew certificates that are missing, damaged or within thirty days of expiry; ``now`` is aware.

    Returns:
        a short hash of each certificate and the CA, by the names of :func:`requests`.

    Raises:
        CertificateError: a certificate cannot be created. OSError: the folder cannot be written.
    """
    authority = _authority(layout, now)
    stamps = {}
    trusted = layout.certificate(AUTHORITY).read_bytes()
    for name, request in requests(node_name, node_uid).items():
        certificate, key = layout.certificate(name), layout.key(name)
        try:
            renew = authority.why_renew(load_certificate(certificate), request, now) or not key.exists()
        except CertificateError:
            renew = True
        if renew:
            authority.issue(request, now).write(certificate, key)
        stamps[name] = hashlib.sha256(trusted + certificate.read_bytes()).hexdigest()[:16]
    return stamps


def _authority(layout: DevLayout, now: datetime.datetime) -> CertificateAuthority:
    certificate, key = layout.certificate(AUTHORITY), layout.key(AUTHORITY)
    try:
        authority = CertificateAuthority.load(certificate, key)
        if not why_expires(authority.certificate, now):
            return authority
    except CertificateError:
        # Missing or damaged: only this cluster uses the CA, so all certificates are simply issued again.
        pass
    authority = CertificateAuthority.create("devopsellence local cluster", now)
    authority.issued.write(certificate, key)
    return authority
