"""Plan of the record of gateways: addresses that controllers announce, also of lately vanished ones. Pure.

A controller that restarts stands again within seconds or minutes. Its address stays listed meanwhile, so that restarts
write nothing, and agents do not open and close connections for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from devopsellence.gateways import MOST_GATEWAYS, InvalidGateways, gateway_address

#: Time that an address stays listed after its controller has vanished: a restart, an upgrade, a reboot.
ABSENCE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """Next state of the record.

    ``addresses``: to be written; None if the record stays. ``absent``: when each listed address was found without a
    controller. ``recheck``: the time of the next plan, also without a change; None: only after a change.
    """

    addresses: tuple[str, ...] | None
    absent: Mapping[str, float]
    recheck: float | None


def announced(gateways: Iterable[str]) -> frozenset[str]:
    """Return the addresses among what candidates announce; the rest is of no use to anybody."""
    found = set()
    for gateway in gateways:
        with suppress(InvalidGateways):
            found.add(gateway_address(gateway))
    return frozenset(found)


def plan_gateways(live: frozenset[str], listed: Sequence[str], absent: Mapping[str, float], mono: float) -> GatewayPlan:
    """Decide on the record that lists ``listed``; ``absent`` is from the plan before, empty at the start of a term.

    Without any live gateway the record stays: the last known addresses are better than none.
    """
    since = {address: absent.get(address, mono) for address in listed if address not in live}
    if not live:
        return GatewayPlan(None, since, None)
    kept = [address for address, start in since.items() if mono - start < ABSENCE_SECONDS]
    room = max(0, MOST_GATEWAYS - len(live))
    addresses = tuple(sorted([*sorted(live)[:MOST_GATEWAYS], *kept[:room]]))
    recheck = min((since[address] + ABSENCE_SECONDS for address in kept), default=None)
    return GatewayPlan(addresses if addresses != tuple(listed) else None, since, recheck)
