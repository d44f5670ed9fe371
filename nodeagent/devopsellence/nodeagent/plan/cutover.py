"""Cutover: which container gets requests, and which stop has to wait for requests in progress.

The container of the assigned spec gets requests as soon as it is ready; until then the container before it does. A
container about to be stopped gets no new requests, and is stopped once its current requests have ended: until then the
router holds the container (``Observed.held``). The reason for the stop does not matter, except that an unhealthy
container is stopped at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.nodeagent.docker.model import Container, ContainerState, ProbeVerdict
from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.service_state import ServiceState

#: Reasons to hold a container that has not begun to drain: nothing has ended yet, so no time limit of a drain runs.
SERVES: Final = "serves"
BEING_TAKEN_OUT: Final = "is being taken out of service"


@dataclass(frozen=True, slots=True)
class AllowedActions:
    """Actions possible now, up to the first stop that has to wait."""

    actions: tuple[Action, ...]
    #: Container (id) to be stopped next or as soon as possible; empty for none.
    draining: str = ""
    #: Reason why that stop has to wait; empty if it does not.
    waits: str = ""
    #: The stop waits for the end of requests, which the router has begun to wait for.
    is_draining: bool = False


def hold_back(actions: Sequence[Action], held: Mapping[str, str]) -> AllowedActions:
    """Return ``actions`` up to the first stop of a container in ``held`` (reason by container id)."""
    first = actions[0] if actions else None
    draining = first.container if first is not None and first.kind is ActionKind.STOP else ""
    for index, action in enumerate(actions):
        is_unhealthy = action.became_unhealthy or action.unhealthy
        if action.kind is ActionKind.STOP and action.container in held and not is_unhealthy:
            reason = held[action.container]
            waits = f"the old container {action.name} is not stopped yet: {reason}" if index == 0 else ""
            is_draining = bool(waits) and reason not in (SERVES, BEING_TAKEN_OUT)
            return AllowedActions(tuple(actions[:index]), draining, waits, is_draining)
    return AllowedActions(tuple(actions), draining)


def serving_containers(state: ServiceState, draining: str) -> tuple[Container, ...]:
    """Return the containers of a service for requests: one, or none if no container has ever been ready.

    ``draining``: as in :class:`AllowedActions`.
    """
    if state.assigned.completes:
        return ()
    return tuple(candidate for candidate in _candidates(state) if candidate.id != draining)[:1]


def _candidates(state: ServiceState) -> Iterator[Container]:
    """Yield containers able to serve, the best first."""
    container, old = state.container, state.fallback
    known = container is not None and container.state is ContainerState.RUNNING and _has_served(state, container)
    if container is not None and (state.running or (known and _not_probed_yet(state, container))):
        yield container
    if old is not None and old.state is ContainerState.RUNNING and _has_served(state, old):
        yield old
    # Last resort: a container that became unhealthy.
    if container is not None and known and state.health.verdict is ProbeVerdict.UNHEALTHY:
        yield container


def _not_probed_yet(state: ServiceState, container: Container) -> bool:
    """Return True for a container with requests and without a probe result: after a restart of agent or probes."""
    return container.id in state.held and state.health.verdict is not ProbeVerdict.UNHEALTHY


def _has_served(state: ServiceState, container: Container) -> bool:
    """Return True if the container has been ready. A held container has been, even without a restart history."""
    history = state.histories.get((container.service, container.hash), NO_HISTORY)
    return history.ready_container == container.id or container.id in state.held
