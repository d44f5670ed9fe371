"""Backoff of actions that change nothing, whatever the action.

Each action of a plan is to change what is observed. One that ends and leaves the observation as it was would be
planned again at once, and for ever: it waits instead, 1 s at first, then ever longer. An action that did change
something, and is planned again for the very same observation, is repeated once at once, then backs off as well:
something undoes it. Failures of which the engine tells the reason have backoffs of their own, in the restart histories;
this is the net below all of them.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ImageVolume, Network, Observed
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind, EnvironmentPlan, ServicePlan
from devopsellence.nodeagent.plan.history import BACKOFF_CAP, GIVE_UP

#: Wait after the first action that changed nothing, doubling up to ``BACKOFF_CAP``.
FIRST_WAIT: Final = 1.0
#: Time without a repetition after which an action counts from zero: longer than the longest wait.
RESET_SECONDS: Final = 2 * BACKOFF_CAP
#: Actions remembered per service.
MOST_ATTEMPTS: Final = 16

#: Actions on containers and volumes that are not needed any more: the release runs without them.
_CLEANUPS: Final = frozenset({ActionKind.STOP, ActionKind.REMOVE, ActionKind.REMOVE_VOLUME})
_Facts: TypeAlias = tuple[Network | None, tuple[Container, ...], tuple[ImageVolume, ...]]
_OBJECTS: Final = {
    ActionKind.CREATE_NETWORK: "creating its network",
    ActionKind.REMOVE_NETWORK: "removing its network",
    ActionKind.PULL: "pulling its image",
    ActionKind.CREATE: "creating its container",
    ActionKind.START: "starting its container",
    ActionKind.CONNECT: "putting its container on the network",
    ActionKind.UPDATE: "setting the settings of its container back",
    ActionKind.EXAMINE: "inspecting its container",
    ActionKind.READ_OUTPUT: "reading the output of its container",
    ActionKind.STOP: "stopping its container",
    ActionKind.REMOVE: "removing its container",
    ActionKind.REMOVE_VOLUME: "removing the volume of its image",
    ActionKind.GIVE_UP: "recording that it cannot be run",
}


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An action that ended, and what was observed before it. ``count``: how often; ``last``: when (monotonic)."""

    action: Hashable
    facts: _Facts
    count: int
    last: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An action that was carried out for the same observation before. ``until``: earliest time (monotonic) of the next
    attempt. ``unchanged``: how often it changed nothing."""

    action: Action
    until: float
    unchanged: int

    @property
    def reason(self) -> str:
        times = f", {self.unchanged} times in a row" if self.unchanged > 1 else ""
        return f"{_OBJECTS[self.action.kind]} changed nothing{times}; it is tried again later"


class RepeatedActions:
    """Actions of one environment that ended lately, by service; "" for the network, ``TASK`` for the release task."""

    def __init__(self) -> None:
        self._attempts: dict[str, list[_Attempt]] = {}
        #: By service: the last attempt, while what is observed is what it was before it.
        self._stuck: dict[str, _Attempt] = {}

    def ended(self, action: Action, before: Observed, now: Now) -> None:
        """Note the end of an action with a known outcome. ``before``: observed state that it was planned for."""
        service, identity = action.service, _identity(action)
        facts = _facts(service, before)
        known = self._known(service, now.mono)
        earlier = next((one for one in known if (one.action, one.facts) == (identity, facts)), None)
        attempt = _Attempt(identity, facts, earlier.count + 1 if earlier else 1, now.mono)
        self._attempts[service] = [*(one for one in known if one is not earlier), attempt][-MOST_ATTEMPTS:]
        self._stuck[service] = attempt

    def forget(self) -> None:
        """Forget everything: something else than the engine's objects has changed."""
        self._attempts.clear()
        self._stuck.clear()

    def hold_back(self, planned: EnvironmentPlan, observed: Observed, now: Now) -> EnvironmentPlan:
        """Return a plan without the actions that have to wait, with the times at which they are due."""
        for service, attempt in list(self._stuck.items()):
            if attempt.facts != _facts(service, observed):
                del self._stuck[service]
        network, waiting = self._due(planned.network, observed, now)
        if waiting is not None and waiting.until > now.mono:
            planned = replace(
                planned, network=network, reason=planned.reason or waiting.reason, network_wake=waiting.until
            )
        task, waiting = self._due(planned.task.actions, observed, now)
        if waiting is not None and waiting.until > now.mono:
            wake = _earliest(planned.task.wake, waiting.until)
            planned = replace(planned, task=replace(planned.task, actions=task, wake=wake))
        services = tuple(self._service(service, observed, now) for service in planned.services)
        return replace(planned, services=services)

    def _service(self, planned: ServicePlan, observed: Observed, now: Now) -> ServicePlan:
        actions, waiting = self._due(planned.actions, observed, now)
        if waiting is None or not waiting.unchanged:
            return planned
        until = _earliest(planned.wake, waiting.until) if waiting.until > now.mono else planned.wake
        if waiting.action.kind is ActionKind.UPDATE:
            # The service works all the same.
            return replace(planned, actions=actions, wake=until)
        return replace(
            planned,
            actions=actions,
            reason=planned.reason or waiting.reason,
            failed=planned.failed or (waiting.unchanged >= GIVE_UP and waiting.action.kind not in _CLEANUPS),
            retry_wall=planned.retry_wall or now.wall + max(0.0, waiting.until - now.mono),
            wake=until,
        )

    def _due(
        self, actions: tuple[Action, ...], observed: Observed, now: Now
    ) -> tuple[tuple[Action, ...], _Waiting | None]:
        """Return the actions that may start now, and the first repetition.

        The actions after one that has to wait depend on it, unless it only sets settings back.
        """
        first: _Waiting | None = None
        for index, action in enumerate(actions):
            waiting = self._waiting(action, observed, now)
            if waiting is None or waiting.until <= now.mono:
                return actions[index:], first or waiting
            first = first or waiting
            if action.kind is not ActionKind.UPDATE:
                return (), waiting
        return (), first

    def _waiting(self, action: Action, observed: Observed, now: Now) -> _Waiting | None:
        service = action.service
        if not (known := self._known(service, now.mono)):
            return None
        identity, facts = _identity(action), _facts(service, observed)
        attempt = next((one for one in known if (one.action, one.facts) == (identity, facts)), None)
        if attempt is None:
            return None
        unchanged = attempt.count if self._stuck.get(service) == attempt else attempt.count - 1
        return _Waiting(action, attempt.last + _wait(unchanged), unchanged)

    def _known(self, service: str, mono: float) -> list[_Attempt]:
        return [attempt for attempt in self._attempts.get(service, ()) if mono - attempt.last < RESET_SECONDS]


def _identity(action: Action) -> Hashable:
    return action.kind, action.container, action.name, action.hash


def _facts(service: str, observed: Observed) -> _Facts:
    """Return what an action of a service can change. The network's action can change every container."""
    containers = [
        replace(container, running_since=0.0)
        for container in observed.containers
        if not service or service == (TASK if container.task else container.service)
    ]
    volumes = tuple(volume for volume in observed.image_volumes if not service or service == volume.service)
    return observed.network, tuple(sorted(containers, key=lambda container: container.id)), volumes


def _wait(unchanged: int) -> float:
    return min(BACKOFF_CAP, FIRST_WAIT * 2.0 ** min(unchanged - 1, 20)) if unchanged > 0 else 0.0


def _earliest(wake: float | None, until: float) -> float:
    return until if wake is None else min(wake, until)
