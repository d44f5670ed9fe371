"""Next step for the certificate of one host, from its record, the nodes that serve the host, and the time. Pure.

The wall clock counts here, as for every certificate: the time of the next attempt may come from an earlier leader. The
wait for a node's key is measured by the monotonic clock, from zero with each leader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.certificates import record
from devopsellence.controller.certificates.csr import CertificateMismatch, check_request
from devopsellence.controller.certificates.demand import CertificateDemand, IngressServer
from devopsellence.controller.certificates.failure import FailureKind, IssuanceFailure, IssuancePace, backoff

#: Time before its end at which a certificate is renewed; a third of its lifetime if that is shorter.
RENEW_AHEAD: Final = timedelta(days=30)
_ORDERING: Final = frozenset({pb.Issuance.ORDER, pb.Issuance.CHALLENGE, pb.Issuance.FINALIZE})


class CertificateStepKind(Enum):
    """Kinds of steps."""

    WAIT = "wait"
    #: Ask a node for a key. The issuer adds the id, and the operators as recipients.
    ASK = "ask"
    WRITE = "write"
    FAIL = "fail"
    DELETE = "delete"
    #: Order with the signing request of the node.
    ATTEMPT = "attempt"


@dataclass(frozen=True, slots=True)
class CertificateStep:
    """A step with its reason. ``recheck_after``: seconds until the next look without a change."""

    kind: CertificateStepKind
    reason: str = ""
    recheck_after: float | None = None
    #: ``node`` for ASK, ``certificate`` for WRITE, ``failure`` for FAIL, ``request`` for ATTEMPT.
    node: str = ""
    certificate: pb.Certificate | None = None
    failure: IssuanceFailure | None = None
    request: pb.SigningRequest | None = None


def decide(
    demand: CertificateDemand,
    certificate: pb.Certificate,
    now: Now,
    asked_since: float,
    recipients: frozenset[str],
    pace: IssuancePace,
) -> CertificateStep:
    """Return the next step for the certificate of one host.

    Args:
        certificate: its record; a blank record if there is none.
        asked_since: monotonic second at which this leader first saw the key request of the record.
        recipients: the public keys of the environment's nodes.
    """
    if demand.account is None:
        return _without_order(demand, certificate)
    if not certificate.HasField("issuance"):
        return _when_due(demand, certificate, now)
    issuance = certificate.issuance
    if issuance.phase in _ORDERING:
        return _ordering(demand, certificate)
    if issuance.phase == pb.Issuance.KEY:
        return _waiting_for_key(demand, certificate, now, asked_since, recipients, pace)
    left = issuance.next_attempt_at.seconds - now.wall
    if left > 0:
        return CertificateStep(CertificateStepKind.WAIT, recheck_after=left)
    return _ask(demand, certificate, f"retried after: {issuance.reason}" if issuance.reason else "retried")


def is_under_way(demand: CertificateDemand, certificate: pb.Certificate, request_id: str) -> bool:
    """Return whether the attempt for the key request ``request_id`` is still wanted."""
    return demand.account is not None and certificate.issuance.key_request.id == request_id


def not_served(servers: Sequence[IngressServer], tokens: frozenset[str]) -> list[str]:
    """Return the reachable nodes that do not serve all of ``tokens``; all nodes if none is reachable."""
    reachable = [server for server in servers if server.reachable]
    return [server.node for server in reachable or servers if not server.reachable or not tokens <= server.tokens]


def renewal_at(certificate: pb.Certificate) -> datetime:
    """Return the time from which the certificate is to be renewed, with a time zone."""
    begin, end = _utc(certificate.not_before), _utc(certificate.not_after)
    return end - min(RENEW_AHEAD, (end - begin) / 3)


def failed(certificate: pb.Certificate, failure: IssuanceFailure, at: datetime, pace: IssuancePace) -> pb.Certificate:
    """Return the record after a failed attempt."""
    after = backoff(failure, certificate.issuance.failures + 1, certificate.host, pace)
    return record.failed(certificate, failure, after, at)


def _without_order(demand: CertificateDemand, certificate: pb.Certificate) -> CertificateStep:
    """Return the step for a host without an order: an existing certificate stays while it may be served."""
    if not demand.named and certificate.source != pb.Certificate.INSTALLED:
        return CertificateStep(CertificateStepKind.DELETE, "the environment does not name the host any more")
    if certificate.HasField("issuance"):
        stopped = record.stopped(certificate)
        reason = "no certificate is to be ordered for the host"
        return (
            CertificateStep(CertificateStepKind.DELETE, reason)
            if record.is_blank(stopped)
            else CertificateStep(CertificateStepKind.WRITE, reason, certificate=stopped)
        )
    return CertificateStep(CertificateStepKind.WAIT)


def _when_due(demand: CertificateDemand, certificate: pb.Certificate, now: Now) -> CertificateStep:
    if certificate.source == pb.Certificate.SOURCE_UNSPECIFIED:
        return _ask(demand, certificate, "the host has no certificate yet")
    at = renewal_at(certificate)
    if now.utc >= at:
        return _ask(demand, certificate, f"the certificate ends at {_utc(certificate.not_after).isoformat()}")
    if certificate.source == pb.Certificate.ACME:
        known = set(certificate.recipients)
        blind = [server.node for server in demand.servers if server.recipient and server.recipient not in known]
        if blind:
            return _ask(demand, certificate, f"its key is not encrypted for {', '.join(blind)}, which serves the host")
    return CertificateStep(CertificateStepKind.WAIT, recheck_after=(at - now.utc).total_seconds())


def _waiting_for_key(
    demand: CertificateDemand,
    certificate: pb.Certificate,
    now: Now,
    since: float,
    recipients: frozenset[str],
    pace: IssuancePace,
) -> CertificateStep:
    issuance = certificate.issuance
    node = next((server for server in demand.servers if server.node == issuance.key_node), None)
    request = node.requests.get(issuance.key_request.id) if node is not None else None
    if request is not None:
        return _key_created(certificate, request, now)
    if node is None or not node.reachable:
        return _ask(demand, certificate, f"{issuance.key_node} is not reachable to create the key")
    if not recipients <= set(issuance.key_request.recipients):
        return _ask(demand, certificate, "the key is to be encrypted for more nodes")
    left = since + pace.key - now.mono
    if left > 0:
        return CertificateStep(CertificateStepKind.WAIT, recheck_after=left)
    detail = f"node {node.node} has not created a key within {pace.key:.0f} s"
    return CertificateStep(CertificateStepKind.FAIL, failure=IssuanceFailure(FailureKind.NODE, detail))


def _key_created(certificate: pb.Certificate, request: pb.SigningRequest, now: Now) -> CertificateStep:
    asked = certificate.issuance.key_request
    try:
        check_request(request, certificate.host, asked.recipients)
    except CertificateMismatch as error:
        node = certificate.issuance.key_node
        detail = f"the signing request of node {node} for {certificate.host} is rejected: {error}"
        return CertificateStep(CertificateStepKind.FAIL, failure=IssuanceFailure(FailureKind.NODE, detail))
    return CertificateStep(
        CertificateStepKind.WRITE, "the key exists", certificate=record.ordering(certificate, now.utc)
    )


def _ordering(demand: CertificateDemand, certificate: pb.Certificate) -> CertificateStep:
    request_id = certificate.issuance.key_request.id
    for server in demand.servers:
        if request := server.requests.get(request_id):
            return CertificateStep(CertificateStepKind.ATTEMPT, request=request)
    return _ask(demand, certificate, f"the signing request of {certificate.issuance.key_node} is gone")


def _ask(demand: CertificateDemand, certificate: pb.Certificate, reason: str) -> CertificateStep:
    """Ask a reachable node with a known public key; the first by name, after each failure the next."""
    able = [server.node for server in demand.servers if server.reachable and server.recipient]
    if not able:
        return CertificateStep(
            CertificateStepKind.WAIT, f"{reason}; no node that serves the host is reachable to create a key"
        )
    return CertificateStep(CertificateStepKind.ASK, reason, node=able[certificate.issuance.failures % len(able)])


def _utc(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
