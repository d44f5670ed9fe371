"""Limits of a caller, with times passed in."""

from __future__ import annotations

import pytest

from devopsellence.controller.gateway.rules.caller import Role
from devopsellence.controller.gateway.rules.limits import PROFILES, CallerLimits, LimitTable, WriteCost
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused

NODE = PROFILES[Role.NODE]


def limits() -> CallerLimits:
    return CallerLimits(NODE, 0.0)


@pytest.mark.parametrize(
    ("cost", "times"),
    [
        (WriteCost(writes=1), NODE.writes.burst),
        (WriteCost(written_bytes=1 << 20), NODE.written_bytes.burst / (1 << 20)),
        (WriteCost(events=10), NODE.events.burst / 10),
        (WriteCost(event_bytes=1 << 16), NODE.event_bytes.burst / (1 << 16)),
    ],
)
def test_each_limit_is_used_up_and_comes_back(cost: WriteCost, times: float) -> None:
    caller = limits()
    for _ in range(int(times)):
        caller.spend(cost, 0.0)
    with pytest.raises(Refused) as caught:
        caller.spend(cost, 0.0)
    assert caught.value.kind is RefusalKind.EXHAUSTED
    caller.spend(cost, 3600.0)


def test_refused_cost_takes_nothing() -> None:
    caller = limits()
    with pytest.raises(Refused):
        caller.spend(WriteCost(writes=1, events=10**6), 0.0)
    caller.spend(WriteCost(writes=int(NODE.writes.burst)), 0.0)


@pytest.mark.parametrize("ttl", [-1, 0, 1, 24 * 3600 + 1, 2**62])
def test_lease_has_a_ttl_within_bounds(ttl: int) -> None:
    with pytest.raises(Refused) as caught:
        limits().check_grant(ttl, 0.0)
    assert caught.value.kind is RefusalKind.INVALID


def test_keepalives_are_limited_and_come_back() -> None:
    caller = limits()
    for _ in range(int(NODE.renewals.burst)):
        caller.check_renewal(0.0)
    with pytest.raises(Refused) as caught:
        caller.check_renewal(0.0)
    assert caught.value.kind is RefusalKind.EXHAUSTED
    # A keeper sends one every third of the shortest TTL, for every lease that a node may have.
    assert NODE.renewals.burst >= NODE.live_leases * 3 / NODE.ttl[0]
    caller.check_renewal(1.0)


def test_live_leases_are_counted_until_they_end() -> None:
    caller = limits()
    for number in range(NODE.live_leases):
        now = number * 60.0
        caller.check_grant(10, now)
        caller.lease_held(number, 10**6, now)
    with pytest.raises(Refused):
        caller.check_grant(10, 10_000.0)
    caller.lease_ended(0)
    caller.check_grant(10, 10_000.0)


def test_leases_granted_in_a_row_are_limited() -> None:
    caller = limits()
    for _ in range(int(NODE.grants.burst)):
        caller.check_grant(10, 0.0)
    with pytest.raises(Refused):
        caller.check_grant(10, 0.0)


def test_calls_in_flight_are_counted() -> None:
    caller = limits()
    calls = [caller.call(stream=False) for _ in range(NODE.calls)]
    for call in calls:
        call.__enter__()
    with pytest.raises(Refused), caller.call(stream=False):
        pass
    with caller.call(stream=True):
        calls[0].__exit__(None, None, None)
    with caller.call(stream=False):
        pass


def test_callers_have_limits_of_their_own() -> None:
    table = LimitTable()
    first = table.of("node:u1", Role.NODE, 0.0)
    assert table.of("node:u1", Role.NODE, 1.0) is first
    assert table.of("node:u2", Role.NODE, 1.0) is not first
    assert table.of("root", Role.ROOT, 0.0).profile is PROFILES[Role.OPERATOR]
