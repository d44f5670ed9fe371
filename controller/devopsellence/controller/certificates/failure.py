"""Failures to obtain a certificate: kinds, advice, and backoff until the next attempt. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

_DAY: Final = 24 * 3600.0
# Longer Retry-After headers are cut to this.
_LONGEST_RETRY_AFTER: Final = 7 * _DAY


class FailureKind(Enum):
    """Kinds of failures. The kind only selects the advice."""

    #: The authority is unreachable, or its own certificate is not trusted.
    UNREACHABLE = "unreachable"
    UNTRUSTED = "untrusted"
    RATE_LIMITED = "rate_limited"
    #: The authority refuses the account.
    ACCOUNT = "account"
    #: The authority issues no certificates for the name.
    REJECTED = "rejected"
    #: The authority could not validate the challenge.
    CONNECTION = "connection"
    UNAUTHORIZED = "unauthorized"
    DNS = "dns"
    CAA = "caa"
    #: A node has not created a key, or the signing request is wrong.
    NODE = "node"
    OTHER = "other"


_ADVICE: Final = {
    FailureKind.UNREACHABLE: "it is retried automatically; check that the controller's machine can reach it",
    FailureKind.UNTRUSTED: "if it is a private one, start the controller with --acme-ca-cert",
    FailureKind.RATE_LIMITED: "it is retried automatically when the authority allows it",
    FailureKind.ACCOUNT: "see ingress.tls.email and ingress.tls.ca_directory_url in devopsellence.yml",
    FailureKind.REJECTED: "use a host that the authority certifies, or devopsellence ingress cert install",
    FailureKind.CONNECTION: "let http://{host}/ (port 80) reach the nodes, see devopsellence ingress check",
    FailureKind.UNAUTHORIZED: "check that {host} resolves to these nodes only: devopsellence ingress check",
    FailureKind.DNS: "give {host} an A or AAAA record that points to the nodes, see devopsellence ingress check",
    FailureKind.CAA: "let the CAA records of {host} name the authority",
    FailureKind.NODE: "see devopsellence status",
}


@dataclass(frozen=True, slots=True)
class IssuanceFailure:
    """A failed attempt. ``detail`` says what happened; ``retry_after``: seconds to wait as asked by the authority."""

    kind: FailureKind
    detail: str
    retry_after: float = 0.0

    def sentence(self, host: str) -> str:
        """Return a sentence with the failure and the advice."""
        advice = _ADVICE.get(self.kind, "").format(host=host)
        return f"{self.detail}; {advice}" if advice else self.detail


class IssuanceError(Exception):
    """An attempt to obtain a certificate has failed."""

    def __init__(self, failure: IssuanceFailure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class IssuancePace:
    """Timing of attempts, in seconds."""

    #: Time until the second attempt; doubled after each failure, up to ``longest_backoff``.
    first_backoff: float = 60.0
    longest_backoff: float = _DAY
    #: Time for a node to create a key. Later another node is asked.
    key: float = 120.0
    #: Time for all nodes to serve a challenge. After that the authority validates anyway.
    answers: float = 30.0


def backoff(failure: IssuanceFailure, failures: int, host: str, pace: IssuancePace) -> float:
    """Return the seconds until the next attempt after ``failures`` consecutive failures (at least one).

    A hash of the host spreads the attempts, so that two hundred hosts that failed together are not retried together for
    ever. The result is the same for the same host, so that every leader and every reader agrees.
    """
    delay = min(pace.first_backoff * 2.0 ** min(failures - 1, 30), pace.longest_backoff)
    spread = int.from_bytes(hashlib.sha256(host.encode()).digest()[:4], "big") / 2**32
    return max(delay * (0.75 + 0.25 * spread), min(failure.retry_after, _LONGEST_RETRY_AFTER))
