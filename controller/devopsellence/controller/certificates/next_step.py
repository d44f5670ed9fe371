"""What the certificate of one host needs now: pure, over its record, those who serve it, and the time.

The wall clock counts here, as it does for every certificate: another leader's notes of when to try again are read with
one's own. What is waited for on others is measured by the monotonic clock, anew with each leader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates import record
from devopsellence.controller.certificates.csr import WrongAnswer, check_request
from devopsellence.controller.certificates.demand import Demand, Server
from devopsellence.controller.certificates.failure import Failure, Kind, Pace, backoff
from devopsellence.controller.model.snapshot import Moment

#: A certificate is renewed so long before its end, or a third of its life if that is shorter.
RENEW_AHEAD: Final = timedelta(days=30)
_AT_WORK: Final = frozenset({pb.Issuance.ORDER, pb.Issuance.CHALLENGE, pb.Issuance.FINALIZE})


class Do(Enum):
    """What a step does."""

    WAIT = "wait"
    # Ask a node for a key; who carries it out draws the id and adds the operators to those whom it is sealed for.
    ASK = "ask"
    WRITE = "write"
    FAIL = "fail"
    DELETE = "delete"
    # Order, with the signing request that is there.
    ATTEMPT = "attempt"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and why. ``recheck_after``: look again after so many seconds although nothing has changed."""

    do: Do
    reason: str = ""
    recheck_after: float | None = None
    # ASK: whom; WRITE: what; FAIL: why; ATTEMPT: with what.
    node: str = ""
    certificate: pb.Certificate | None = None
    failure: Failure | None = None
    request: pb.SigningRequest | None = None


def decide(
    demand: Demand, certificate: pb.Certificate, now: Moment, asked_since: float, recipients: frozenset[str], pace: Pace
) -> Step:
    """The next step for the certificate of one host.

    Args:
        certificate: its record; a blank one where there is none.
        asked_since: the monotonic second since when this leader has seen the record's key request.
        recipients: the public keys of the environment's nodes.
    """
    if demand.account is None:
        return _without(demand, certificate)
    if not certificate.HasField("issuance"):
        return _when_due(demand, certificate, now)
    issuance = certificate.issuance
    if issuance.phase in _AT_WORK:
        return _at_work(demand, certificate)
    if issuance.phase == pb.Issuance.KEY:
        return _asking(demand, certificate, now, asked_since, recipients, pace)
    left = issuance.next_attempt_at.seconds - now.wall.timestamp()
    if left > 0:
        return Step(Do.WAIT, recheck_after=left)
    return _ask(demand, certificate, f"tried again, after: {issuance.reason}" if issuance.reason else "tried again")


def is_under_way(demand: Demand, certificate: pb.Certificate, request_id: str) -> bool:
    """Whether the attempt that began with the key request ``request_id`` is still wanted."""
    return demand.account is not None and certificate.issuance.key_request.id == request_id


def unanswered(servers: Sequence[Server], tokens: frozenset[str]) -> list[str]:
    """Who of those who are there does not answer all of ``tokens``; all, when nobody is there."""
    there = [one for one in servers if one.answers]
    return [one.node for one in there or servers if not one.answers or not tokens <= one.tokens]


def renewal_at(certificate: pb.Certificate) -> datetime:
    """From when on the certificate is to be renewed, with a time zone."""
    begin, end = _utc(certificate.not_before), _utc(certificate.not_after)
    return end - min(RENEW_AHEAD, (end - begin) / 3)


def failed(certificate: pb.Certificate, failure: Failure, at: datetime, pace: Pace) -> pb.Certificate:
    """The record after an attempt that has failed."""
    after = backoff(failure, certificate.issuance.failures + 1, certificate.host, pace)
    return record.failed(certificate, failure, after, at)


def _without(demand: Demand, certificate: pb.Certificate) -> Step:
    """Nothing is to be ordered. What is there stays for as long as it may be served."""
    if not demand.named and certificate.source != pb.Certificate.INSTALLED:
        return Step(Do.DELETE, "the environment does not name the host any more")
    if certificate.HasField("issuance"):
        stopped = record.stopped(certificate)
        reason = "no certificate is to be ordered for the host"
        return Step(Do.DELETE, reason) if record.is_blank(stopped) else Step(Do.WRITE, reason, certificate=stopped)
    return Step(Do.WAIT)


def _when_due(demand: Demand, certificate: pb.Certificate, now: Moment) -> Step:
    if certificate.source == pb.Certificate.SOURCE_UNSPECIFIED:
        return _ask(demand, certificate, "the host has no certificate yet")
    at = renewal_at(certificate)
    if now.wall >= at:
        return _ask(demand, certificate, f"the certificate ends at {_utc(certificate.not_after).isoformat()}")
    if certificate.source == pb.Certificate.ACME:
        known = set(certificate.recipients)
        blind = [one.node for one in demand.servers if one.recipient and one.recipient not in known]
        if blind:
            return _ask(demand, certificate, f"its key is not sealed for {', '.join(blind)}, which serves the host")
    return Step(Do.WAIT, recheck_after=(at - now.wall).total_seconds())


def _asking(
    demand: Demand, certificate: pb.Certificate, now: Moment, since: float, recipients: frozenset[str], pace: Pace
) -> Step:
    issuance = certificate.issuance
    node = next((one for one in demand.servers if one.node == issuance.key_node), None)
    request = node.requests.get(issuance.key_request.id) if node is not None else None
    if request is not None:
        return _answered(certificate, request, now)
    if node is None or not node.answers:
        return _ask(demand, certificate, f"{issuance.key_node} is not there to make the key")
    if not recipients <= set(issuance.key_request.recipients):
        return _ask(demand, certificate, "the key is to be sealed for other nodes as well")
    left = since + pace.key - now.monotonic
    if left > 0:
        return Step(Do.WAIT, recheck_after=left)
    detail = f"node {node.node} has not made a key within {pace.key:.0f} s"
    return Step(Do.FAIL, failure=Failure(Kind.NODE, detail))


def _answered(certificate: pb.Certificate, request: pb.SigningRequest, now: Moment) -> Step:
    asked = certificate.issuance.key_request
    try:
        check_request(request, certificate.host, asked.recipients)
    except WrongAnswer as error:
        node = certificate.issuance.key_node
        detail = f"the signing request of node {node} for {certificate.host} is refused: {error}"
        return Step(Do.FAIL, failure=Failure(Kind.NODE, detail))
    return Step(Do.WRITE, "the key is there", certificate=record.ordering(certificate, now.wall))


def _at_work(demand: Demand, certificate: pb.Certificate) -> Step:
    request_id = certificate.issuance.key_request.id
    for one in demand.servers:
        if request := one.requests.get(request_id):
            return Step(Do.ATTEMPT, request=request)
    return _ask(demand, certificate, f"the signing request of {certificate.issuance.key_node} is gone")


def _ask(demand: Demand, certificate: pb.Certificate, reason: str) -> Step:
    """Ask the first node by name that can open what it makes; after each failure the next one."""
    able = [one.node for one in demand.servers if one.answers and one.recipient]
    if not able:
        return Step(Do.WAIT, f"{reason}; no node that serves the host is there to make a key")
    return Step(Do.ASK, reason, node=able[certificate.issuance.failures % len(able)])


def _utc(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
