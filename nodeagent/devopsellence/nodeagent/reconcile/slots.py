"""Limits on actions in progress, for all environments together: slots for calls, stops and pulls."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from typing import Final

from devopsellence.nodeagent.docker.engine import CALLS, PULLS, STOPS
from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.store.keys import EnvironmentRef


class SlotKind(enum.StrEnum):
    """Kind of slot, by the duration of an action: a call is short, a stop takes a grace period, a pull minutes."""

    CALL = "call"
    STOP = "stop"
    PULL = "pull"


_KINDS: Final = {ActionKind.PULL: SlotKind.PULL, ActionKind.STOP: SlotKind.STOP}
_LIMITS: Final = {SlotKind.CALL: CALLS, SlotKind.STOP: STOPS, SlotKind.PULL: PULLS}


def slot_kind(action: Action) -> SlotKind:
    """Return the kind of slot for an action."""
    return _KINDS.get(action.kind, SlotKind.CALL)


class ActionSlots:
    """Slots in use, and environments waiting for a free slot."""

    def __init__(self) -> None:
        self._used: Counter[SlotKind] = Counter()
        self._waiting: dict[EnvironmentRef, None] = {}

    def choose(self, ref: EnvironmentRef, actions: Iterable[Action]) -> list[Action]:
        """Return the actions of an environment for which there are free slots, in order; no slot is taken yet."""
        chosen: list[Action] = []
        used = Counter(self._used)
        for action in actions:
            kind = slot_kind(action)
            if used[kind] < _LIMITS[kind]:
                used[kind] += 1
                chosen.append(action)
            else:
                self._waiting[ref] = None
        return chosen

    def take(self, action: Action) -> None:
        """Take a slot for an action about to start."""
        self._used[slot_kind(action)] += 1

    def release(self, action: Action) -> list[EnvironmentRef]:
        """Free the slot of an action; return the environments refused a slot since the last release."""
        self._used[slot_kind(action)] -= 1
        waiting, self._waiting = self._waiting, {}
        return list(waiting)
