"""Certificates that can be served, for tests without a server."""

from __future__ import annotations

from datetime import UTC, datetime

from devopsellence.cli.certificates.pki import CertificateAuthority, Request
from devopsellence.nodeagent.envoy.model import TlsCertificate


def tls_certificate(serial: str = "ab", host: str = "a.example") -> TlsCertificate:
    """A new one; ``serial`` is only what it is called."""
    now = datetime.now(UTC)
    made = CertificateAuthority.create("tests", now).issue(Request(host, (host,)), now)
    return TlsCertificate(serial, made.certificate.decode(), made.key.decode())
