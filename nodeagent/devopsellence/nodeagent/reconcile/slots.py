"""How many actions may be under way at once, of all environments together: a slot for each, by what it costs."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from typing import Final

from devopsellence.nodeagent.docker.engine import CALLS, PULLS, STOPS
from devopsellence.nodeagent.plan.actions import Action, Kind
from devopsellence.store.keys import EnvironmentRef


class Lane(enum.StrEnum):
    """What an action costs: a call takes moments, a stop a grace period, a pull minutes."""

    CALL = "call"
    STOP = "stop"
    PULL = "pull"


_LANES: Final = {Kind.PULL: Lane.PULL, Kind.STOP: Lane.STOP}
_SLOTS: Final = {Lane.CALL: CALLS, Lane.STOP: STOPS, Lane.PULL: PULLS}


def lane_of(action: Action) -> Lane:
    """What kind of slot an action takes."""
    return _LANES.get(action.kind, Lane.CALL)


class Lanes:
    """Who has a slot, and who went without one and is to be asked again when one is free."""

    def __init__(self) -> None:
        self._taken: Counter[Lane] = Counter()
        self._starved: dict[EnvironmentRef, None] = {}

    def choose(self, env: EnvironmentRef, actions: Iterable[Action]) -> list[Action]:
        """As many of an environment's actions as there are slots for, in their order; takes none yet."""
        chosen: list[Action] = []
        taken = Counter(self._taken)
        for action in actions:
            lane = lane_of(action)
            if taken[lane] < _SLOTS[lane]:
                taken[lane] += 1
                chosen.append(action)
            else:
                self._starved[env] = None
        return chosen

    def enter(self, action: Action) -> None:
        """This action begins."""
        self._taken[lane_of(action)] += 1

    def leave(self, action: Action) -> list[EnvironmentRef]:
        """It has ended: who had gone without a slot since the last time."""
        self._taken[lane_of(action)] -= 1
        starved, self._starved = self._starved, {}
        return list(starved)
