"""Limits of each caller: calls in flight, writes, bytes, events and leases. Pure: times are passed in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from devopsellence.controller.gateway.rules.caller import Role
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused, invalid
from devopsellence.rate import Rate, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB


@dataclass(frozen=True, slots=True)
class LimitProfile:
    """Limits of callers of one role."""

    calls: int
    streams: int
    #: Watches on all streams.
    watches: int
    writes: Rate
    #: Keys and values written, in bytes.
    written_bytes: Rate
    events: Rate
    event_bytes: Rate
    grants: Rate
    #: Keepalives of leases.
    renewals: Rate
    live_leases: int
    #: Certificates, whose records stay for months.
    signatures: Rate
    #: Least and longest TTL of a lease in seconds.
    ttl: tuple[int, int]


_DAY: Final = 24 * 3600
_UNLIMITED: Final = Rate(float("inf"), 0.0)
_NONE: Final = Rate(0, 0.0)
#: A node writes its statuses ten times a second at most, a few KiB each, and a hundred events in a rollout. An agent
#: takes a lease for its heartbeat at each start, and one for events each hour.
PROFILES: Final[Mapping[Role, LimitProfile]] = {
    Role.NODE: LimitProfile(
        calls=64,
        streams=64,
        watches=128,
        writes=Rate(400, 20),
        written_bytes=Rate(16 * _MIB, 64 * _KIB),
        events=Rate(1_000, 0.1),
        event_bytes=Rate(4 * _MIB, _KIB),
        grants=Rate(30, 0.1),
        renewals=Rate(400, 20),
        live_leases=64,
        signatures=Rate(6, 6 / _DAY),
        ttl=(2, _DAY),
    ),
    Role.OPERATOR: LimitProfile(
        calls=256,
        streams=256,
        watches=2_048,
        writes=Rate(5_000, 200),
        written_bytes=Rate(128 * _MIB, 4 * _MIB),
        events=Rate(5_000, 50),
        event_bytes=Rate(32 * _MIB, 256 * _KIB),
        grants=Rate(1_000, 10),
        renewals=Rate(20_000, 4_000),
        live_leases=10_000,
        signatures=Rate(500, 0.01),
        ttl=(2, _DAY),
    ),
    # One call, a few times if its answer is lost.
    Role.JOIN: LimitProfile(
        calls=4,
        streams=0,
        watches=0,
        writes=_NONE,
        written_bytes=_NONE,
        events=_NONE,
        event_bytes=_NONE,
        grants=_NONE,
        renewals=_NONE,
        live_leases=0,
        signatures=Rate(20, 20 / _DAY),
        ttl=(1, 1),
    ),
    Role.CONTROLLER: LimitProfile(
        calls=1_024,
        streams=1_024,
        watches=16_384,
        writes=_UNLIMITED,
        written_bytes=_UNLIMITED,
        events=_UNLIMITED,
        event_bytes=_UNLIMITED,
        grants=_UNLIMITED,
        renewals=_UNLIMITED,
        live_leases=1_000_000,
        signatures=_UNLIMITED,
        ttl=(1, 100 * _DAY),
    ),
}


@dataclass(frozen=True, slots=True)
class WriteCost:
    """Cost of a request: operations that write, bytes written, and the events among them."""

    writes: int = 0
    written_bytes: int = 0
    events: int = 0
    event_bytes: int = 0


@dataclass
class CallerLimits:
    """State of one caller's limits at this gateway."""

    profile: LimitProfile
    now: float
    calls: int = 0
    streams: int = 0
    watches: int = 0
    #: Keys of the statuses that a node has written here.
    statuses: set[str] = field(default_factory=set)
    _leases: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        profile = self.profile
        self._writes = TokenBucket(profile.writes, self.now)
        self._written_bytes = TokenBucket(profile.written_bytes, self.now)
        self._events = TokenBucket(profile.events, self.now)
        self._event_bytes = TokenBucket(profile.event_bytes, self.now)
        self._grants = TokenBucket(profile.grants, self.now)
        self._renewals = TokenBucket(profile.renewals, self.now)
        self._signatures = TokenBucket(profile.signatures, self.now)

    def spend(self, cost: WriteCost, now: float) -> None:
        """Take the cost of a request: all of it or nothing.

        Raises:
            Refused: a limit is used up.
        """
        wanted = (
            (self._writes, cost.writes, "writes"),
            (self._written_bytes, cost.written_bytes, "bytes written"),
            (self._events, cost.events, "events"),
            (self._event_bytes, cost.event_bytes, "bytes of events"),
        )
        for bucket, amount, what in wanted:
            if not bucket.has(amount, now):
                raise _exhausted(f"the limit of {what} is used up")
        for bucket, amount, _ in wanted:
            bucket.take(amount)

    def check_grant(self, ttl: int, now: float) -> None:
        """Take a grant of a lease.

        Raises:
            Refused: the TTL is out of range, or too many leases were granted.
        """
        least, longest = self.profile.ttl
        if not least <= ttl <= longest:
            raise invalid(f"a lease of {ttl} s: the TTL must be {least} s to {longest} s")
        self._leases = {lease: end for lease, end in self._leases.items() if end > now}
        if len(self._leases) >= self.profile.live_leases or not self._grants.has(1, now):
            raise _exhausted("the limit of leases is used up")
        self._grants.take(1)

    def check_renewal(self, now: float) -> None:
        """Take a keepalive.

        Raises:
            Refused: too many were sent.
        """
        if not self._renewals.has(1, now):
            raise _exhausted("the limit of keepalives is used up")
        self._renewals.take(1)

    def check_signature(self, now: float) -> None:
        """Take a certificate.

        Raises:
            Refused: too many were signed.
        """
        if not self._signatures.has(1, now):
            raise _exhausted("the limit of certificates is used up")
        self._signatures.take(1)

    def lease_held(self, lease: int, ttl: int, now: float) -> None:
        """Note a lease that was granted or kept alive for ``ttl`` seconds."""
        self._leases[lease] = now + ttl

    def lease_ended(self, lease: int) -> None:
        self._leases.pop(lease, None)

    @contextmanager
    def call(self, *, stream: bool) -> Iterator[None]:
        """Count a call or a stream while it lasts.

        Raises:
            Refused: too many are in flight.
        """
        used = self.streams if stream else self.calls
        if used >= (self.profile.streams if stream else self.profile.calls):
            raise _exhausted(f"etcdserver: too many requests: {'streams' if stream else 'calls'} of one caller")
        self._count(1, stream=stream)
        try:
            yield
        finally:
            self._count(-1, stream=stream)

    def _count(self, change: int, *, stream: bool) -> None:
        if stream:
            self.streams += change
        else:
            self.calls += change

    def watch_opened(self) -> None:
        """Count a watch until :meth:`watch_closed`.

        Raises:
            Refused: the caller has too many on all its streams.
        """
        if self.watches >= self.profile.watches:
            raise _exhausted("etcdserver: too many requests: watches of one caller")
        self.watches += 1

    def watch_closed(self) -> None:
        self.watches -= 1


class LimitTable:
    """Limits of all callers by identity."""

    def __init__(self) -> None:
        self._by_identity: dict[str, CallerLimits] = {}

    def of(self, identity: str, role: Role, now: float) -> CallerLimits:
        limits = self._by_identity.get(identity)
        if limits is None:
            profile = PROFILES[Role.OPERATOR if role is Role.ROOT else role]
            limits = self._by_identity[identity] = CallerLimits(profile, now)
        return limits


def _exhausted(reason: str) -> Refused:
    return Refused(RefusalKind.EXHAUSTED, reason)
