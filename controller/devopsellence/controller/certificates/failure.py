"""Why an attempt at a certificate failed, what to do about it, and when to try again. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

_DAY: Final = 24 * 3600.0
# An authority that asks for more is asked again all the same.
_LONGEST_RETRY_AFTER: Final = 7 * _DAY


class Kind(Enum):
    """What went wrong. It changes nothing but the sentence that says what to do."""

    # The authority itself: away, or not to be trusted.
    UNREACHABLE = "unreachable"
    UNTRUSTED = "untrusted"
    RATE_LIMITED = "rate_limited"
    # It gives this account nothing.
    ACCOUNT = "account"
    # It makes no certificates for such a name.
    REJECTED = "rejected"
    # It looked, and found no answer, or another one.
    CONNECTION = "connection"
    UNAUTHORIZED = "unauthorized"
    DNS = "dns"
    CAA = "caa"
    # A node did not do its part.
    NODE = "node"
    OTHER = "other"


_ADVICE: Final = {
    Kind.UNREACHABLE: "it is tried again by itself; see that the controller's machine reaches it",
    Kind.UNTRUSTED: "if it is a private one, start the controller with --acme-ca-cert",
    Kind.RATE_LIMITED: "it is tried again by itself when the authority allows it",
    Kind.ACCOUNT: "see ingress.tls.email and ingress.tls.ca_directory_url in devopsellence.yml",
    Kind.REJECTED: "use a host that it certifies, or devopsellence ingress cert install",
    Kind.CONNECTION: "let http://{host}/ (port 80) reach the nodes, see devopsellence ingress check",
    Kind.UNAUTHORIZED: "see that {host} leads to these nodes and to nothing else: devopsellence ingress check",
    Kind.DNS: "give {host} an A or AAAA record that leads to the nodes, see devopsellence ingress check",
    Kind.CAA: "let the CAA records of {host} name the authority",
    Kind.NODE: "see devopsellence status",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """``detail`` says what happened and where; ``retry_after``: not before so many seconds, as the authority says."""

    kind: Kind
    detail: str
    retry_after: float = 0.0

    def sentence(self, host: str) -> str:
        """For people: what happened, and what to do."""
        advice = _ADVICE.get(self.kind, "").format(host=host)
        return f"{self.detail}; {advice}" if advice else self.detail


class IssuanceError(Exception):
    """An attempt has failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things may take, in seconds."""

    #: Until the second attempt; doubled with each that fails, up to ``longest_backoff``.
    first_backoff: float = 60.0
    longest_backoff: float = _DAY
    #: For a node to make a key. Then another one is asked, after a while.
    key: float = 120.0
    #: For all nodes to answer a challenge. Then the authority is let look all the same.
    answers: float = 30.0


def backoff(failure: Failure, failures: int, host: str, pace: Pace) -> float:
    """After how many seconds the next attempt begins, when ``failures`` in a row have failed (at least one).

    Spread by the host's name, so that two hundred hosts that failed together are not tried together for ever; the same
    for the same host, so that every leader and every reader comes to the same.
    """
    delay = min(pace.first_backoff * 2.0 ** min(failures - 1, 30), pace.longest_backoff)
    spread = int.from_bytes(hashlib.sha256(host.encode()).digest()[:4], "big") / 2**32
    return max(delay * (0.75 + 0.25 * spread), min(failure.retry_after, _LONGEST_RETRY_AFTER))
