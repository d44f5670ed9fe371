"""Actions in progress of one environment: at most one per service, and beside it the stop of an older container.

A stop takes as long as the grace period of its container. The container that has taken over must not wait for that: if
it ends meanwhile, nothing else would serve.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.nodeagent.plan.spec import Desired

#: Actions on the container of the assigned spec that do not wait for the stop of an older one.
_BESIDE_A_STOP: Final = frozenset({ActionKind.EXAMINE, ActionKind.PULL, ActionKind.CREATE, ActionKind.START})


class BusyActions:
    """Actions in progress by service; service "" for the network, TASK for the release task."""

    def __init__(self) -> None:
        self._actions: dict[str, Action] = {}
        self._stops: dict[str, Action] = {}

    def may_start(self, action: Action, desired: Desired) -> bool:
        """Return whether ``action`` may start beside the actions in progress of its service."""
        if action.service in self._actions:
            return False
        stop = self._stops.get(action.service)
        if stop is None:
            return True
        # After a rollback, the container that is being stopped can be the one of the assigned spec.
        if action.kind not in _BESIDE_A_STOP or action.container == stop.container:
            return False
        assigned = desired.services.get(action.service)
        return assigned is not None and action.hash == assigned.hash

    def add(self, action: Action, desired: Desired) -> None:
        """Note the start of ``action``."""
        assigned = desired.services.get(action.service)
        is_older = assigned is not None and action.hash != assigned.hash
        (self._stops if action.kind is ActionKind.STOP and is_older else self._actions)[action.service] = action

    def remove(self, action: Action) -> None:
        """Note the end of ``action``."""
        for actions in (self._actions, self._stops):
            if actions.get(action.service) is action:
                del actions[action.service]

    @property
    def actions(self) -> Collection[Action]:
        return [*self._actions.values(), *self._stops.values()]

    @property
    def services(self) -> frozenset[str]:
        """Return the services with an action in progress."""
        return frozenset(self._actions.keys() | self._stops.keys())

    @property
    def stops(self) -> dict[str, Action]:
        """Return the stops in progress by service."""
        stops = {action.service: action for action in self._actions.values() if action.kind is ActionKind.STOP}
        return {**stops, **self._stops}
