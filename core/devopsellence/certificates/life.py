"""Life of a certificate: when to renew, and its state for people. Pure."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_Time = datetime.datetime
#: Life of a leaf whose owner renews it.
LEAF_LIFE: Final = datetime.timedelta(days=90)
#: Life of a join token.
JOIN_LIFE: Final = datetime.timedelta(hours=1)
#: Share of the life after which a certificate is renewed.
_RENEWED_AFTER: Final = 2 / 3
#: Shortest life of a certificate that a gateway signs.
LEAST_LIFE: Final = datetime.timedelta(minutes=5)
#: Share of the life that the renewals of many certificates of one age are spread over.
_SPREAD: Final = 1 / 30
#: Share of the life after which a renewal is overdue: whoever renews has tried for weeks.
_OVERDUE_AFTER: Final = 5 / 6


class CertificateState(StrEnum):
    """State of a certificate, also in JSON."""

    OK = "ok"
    #: Two thirds of the life are over; the owner renews about now.
    RENEWAL_DUE = "renewal due"
    #: Nobody has renewed it for a while.
    EXPIRES_SOON = "expires soon"
    EXPIRED = "expired"
    #: On the deny-list.
    DENIED = "denied"


@dataclass(frozen=True)
class Life:
    """First and last moment of a certificate; both aware."""

    begins: _Time
    ends: _Time

    @classmethod
    def ending(cls, ends: _Time) -> Life:
        """Return the life of a certificate of which only the end is known: that of one that renews itself."""
        return cls(ends - LEAF_LIFE, ends)

    @property
    def renewal_due(self) -> _Time:
        """Moment from which on a certificate should be renewed."""
        return self._after(_RENEWED_AFTER)

    def renewal_at(self, owner: str) -> _Time:
        """Return when ``owner`` renews its certificate: soon after it is due, at a moment of its own.

        Machines that were set up together thus do not renew at once.
        """
        fraction = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:4], "big") / 2**32
        return self._after(_RENEWED_AFTER + _SPREAD * fraction)

    def state(self, now: _Time) -> CertificateState:
        """Return the state at ``now`` of a certificate that is not denied."""
        if now >= self.ends:
            return CertificateState.EXPIRED
        if now >= self._after(_OVERDUE_AFTER):
            return CertificateState.EXPIRES_SOON
        return CertificateState.RENEWAL_DUE if now >= self.renewal_due else CertificateState.OK

    def _after(self, share: float) -> _Time:
        return self.begins + (self.ends - self.begins) * share
