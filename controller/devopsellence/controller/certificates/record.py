"""States of a Certificate record, each a changed copy of the state before. Pure.

The served certificate (fields ``source`` to ``obtained_by``) changes only in :func:`obtained`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.csr import CertificateChain
from devopsellence.controller.certificates.failure import IssuanceFailure
from devopsellence.store.keys import EnvironmentRef

#: Value of ``obtained_by`` for certificates obtained by the controller.
OBTAINED_BY = "controller"


def blank(ref: EnvironmentRef, host: str) -> pb.Certificate:
    """Return a record without a certificate."""
    return pb.Certificate(organization=ref.organization, project=ref.project, environment=ref.environment, host=host)


def is_blank(certificate: pb.Certificate) -> bool:
    """Return whether the record has neither a certificate nor an issuance in progress."""
    return certificate.source == pb.Certificate.SOURCE_UNSPECIFIED and not certificate.HasField("issuance")


def asked(
    certificate: pb.Certificate,
    request_id: str,
    node: str,
    recipients: Iterable[str],
    reason: str,
    at: datetime,
) -> pb.Certificate:
    """Ask ``node`` for a key encrypted for ``recipients``; ``reason`` says why a certificate is needed."""
    changed = _next(certificate, pb.Issuance.KEY, at, reason)
    changed.issuance.ClearField("next_attempt_at")
    changed.issuance.ClearField("challenges")
    request = pb.KeyRequest(id=request_id, host=certificate.host, recipients=sorted(set(recipients)))
    changed.issuance.key_request.CopyFrom(request)
    changed.issuance.key_node = node
    return changed


def ordering(certificate: pb.Certificate, at: datetime) -> pb.Certificate:
    """Record that the key exists and an order begins."""
    return _next(certificate, pb.Issuance.ORDER, at, f"{certificate.issuance.key_node} has created the key")


def challenged(
    certificate: pb.Certificate, challenges: Sequence[pb.Challenge], reason: str, at: datetime
) -> pb.Certificate:
    """Have the nodes serve ``challenges`` instead of the challenges of an earlier order."""
    changed = _next(certificate, pb.Issuance.CHALLENGE, at, reason)
    del changed.issuance.challenges[:]
    changed.issuance.challenges.extend(sorted(challenges, key=lambda challenge: challenge.token))
    return changed


def finalizing(certificate: pb.Certificate, at: datetime) -> pb.Certificate:
    """Record that the authority has validated the challenges and issues the certificate."""
    changed = _next(certificate, pb.Issuance.FINALIZE, at, "the authority issues the certificate")
    changed.issuance.ClearField("challenges")
    return changed


def obtained(
    certificate: pb.Certificate, chain: CertificateChain, request: pb.SigningRequest, at: datetime
) -> pb.Certificate:
    """Serve ``chain`` from now on, with the key of ``request``."""
    changed = blank(
        EnvironmentRef(certificate.organization, certificate.project, certificate.environment), certificate.host
    )
    changed.source = pb.Certificate.ACME
    changed.chain_pem = chain.pem
    changed.key_age = request.key_age
    changed.recipients.extend(sorted(request.recipients))
    changed.serial, changed.issuer = chain.serial, chain.issuer
    changed.not_before.FromDatetime(chain.not_before)
    changed.not_after.FromDatetime(chain.not_after)
    changed.obtained_at.FromDatetime(at)
    changed.obtained_by = OBTAINED_BY
    return changed


def failed(certificate: pb.Certificate, failure: IssuanceFailure, after: float, at: datetime) -> pb.Certificate:
    """Record a failed attempt; the next attempt begins in ``after`` seconds. The served certificate stays."""
    changed = _next(certificate, pb.Issuance.BACKOFF, at, failure.sentence(certificate.host))
    changed.issuance.failures += 1
    changed.issuance.next_attempt_at.FromDatetime(at + timedelta(seconds=after))
    for field in ("key_request", "key_node", "challenges"):
        changed.issuance.ClearField(field)
    return changed


def stopped(certificate: pb.Certificate) -> pb.Certificate:
    """End the issuance: no certificate is to be obtained any more."""
    changed = pb.Certificate()
    changed.CopyFrom(certificate)
    changed.ClearField("issuance")
    return changed


def _next(certificate: pb.Certificate, phase: pb.Issuance.Phase.ValueType, at: datetime, reason: str) -> pb.Certificate:
    changed = pb.Certificate()
    changed.CopyFrom(certificate)
    changed.issuance.phase = phase
    changed.issuance.reason = reason
    changed.issuance.since.FromDatetime(at)
    return changed
