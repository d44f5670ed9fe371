"""The states of a Certificate record, each made from the one before. Pure; a record that is given is never changed.

What is served (``source`` to ``obtained_by``) changes at one place only: :func:`obtained`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.csr import Chain
from devopsellence.controller.certificates.failure import Failure
from devopsellence.store.keys import EnvironmentRef

#: Who has obtained a certificate, as its record says.
OBTAINED_BY = "controller"


def blank(ref: EnvironmentRef, host: str) -> pb.Certificate:
    """A record without a certificate."""
    return pb.Certificate(organization=ref.organization, project=ref.project, environment=ref.environment, host=host)


def is_blank(certificate: pb.Certificate) -> bool:
    """Whether there is neither a certificate in it nor one on its way."""
    return certificate.source == pb.Certificate.SOURCE_UNSPECIFIED and not certificate.HasField("issuance")


def asked(
    certificate: pb.Certificate,
    request_id: str,
    node: str,
    recipients: Iterable[str],
    reason: str,
    at: datetime,
) -> pb.Certificate:
    """``node`` is to make a key, sealed for ``recipients``; ``reason`` says why a certificate is wanted."""
    made = _next(certificate, pb.Issuance.KEY, at, reason)
    made.issuance.ClearField("next_attempt_at")
    made.issuance.ClearField("challenges")
    request = pb.KeyRequest(id=request_id, host=certificate.host, recipients=sorted(set(recipients)))
    made.issuance.key_request.CopyFrom(request)
    made.issuance.key_node = node
    return made


def ordering(certificate: pb.Certificate, at: datetime) -> pb.Certificate:
    """The key is there; the authority is asked."""
    return _next(certificate, pb.Issuance.ORDER, at, f"{certificate.issuance.key_node} has made the key")


def challenged(
    certificate: pb.Certificate, challenges: Sequence[pb.Challenge], reason: str, at: datetime
) -> pb.Certificate:
    """The nodes are to answer ``challenges``, in place of those of an order before."""
    made = _next(certificate, pb.Issuance.CHALLENGE, at, reason)
    del made.issuance.challenges[:]
    made.issuance.challenges.extend(sorted(challenges, key=lambda one: one.token))
    return made


def finalizing(certificate: pb.Certificate, at: datetime) -> pb.Certificate:
    """The authority is content; the challenges are no longer to be answered."""
    made = _next(certificate, pb.Issuance.FINALIZE, at, "the authority makes the certificate")
    made.issuance.ClearField("challenges")
    return made


def obtained(certificate: pb.Certificate, chain: Chain, request: pb.SigningRequest, at: datetime) -> pb.Certificate:
    """``chain`` is served from now on, with the key that came with ``request``."""
    made = blank(
        EnvironmentRef(certificate.organization, certificate.project, certificate.environment), certificate.host
    )
    made.source = pb.Certificate.ACME
    made.chain_pem = chain.pem
    made.key_age = request.key_age
    made.recipients.extend(sorted(request.recipients))
    made.serial, made.issuer = chain.serial, chain.issuer
    made.not_before.FromDatetime(chain.not_before)
    made.not_after.FromDatetime(chain.not_after)
    made.obtained_at.FromDatetime(at)
    made.obtained_by = OBTAINED_BY
    return made


def failed(certificate: pb.Certificate, failure: Failure, after: float, at: datetime) -> pb.Certificate:
    """The attempt has failed; the next one begins ``after`` seconds. What is served goes on being served."""
    made = _next(certificate, pb.Issuance.BACKOFF, at, failure.sentence(certificate.host))
    made.issuance.failures += 1
    made.issuance.next_attempt_at.FromDatetime(at + timedelta(seconds=after))
    for field in ("key_request", "key_node", "challenges"):
        made.issuance.ClearField(field)
    return made


def stopped(certificate: pb.Certificate) -> pb.Certificate:
    """Nothing is to be obtained any more."""
    made = pb.Certificate()
    made.CopyFrom(certificate)
    made.ClearField("issuance")
    return made


def _next(certificate: pb.Certificate, phase: pb.Issuance.Phase.ValueType, at: datetime, reason: str) -> pb.Certificate:
    made = pb.Certificate()
    made.CopyFrom(certificate)
    made.issuance.phase = phase
    made.issuance.reason = reason
    made.issuance.since.FromDatetime(at)
    return made
