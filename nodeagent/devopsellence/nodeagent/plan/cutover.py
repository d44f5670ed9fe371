"""Which containers requests from outside go to, and what is not stopped yet because some are still under way. Pure.

Requests go to the container of the assigned spec as soon as it has proved itself, until then to the one before it. A
container that is next to be stopped gets none any more, and is not stopped before those under way have ended: what
routes them says so by holding it (:attr:`model.Observed.held`). That is so whatever the container is stopped for,
unless it is not healthy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from devopsellence.nodeagent.docker.model import Container, ContainerState, ProbeVerdict
from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.service_state import ServiceState


@dataclass(frozen=True, slots=True)
class AllowedActions:
    """What may be done now. ``leaving``: the container (id) that is stopped next, or as soon as it may be; empty: none.
    ``waits``: why not yet, in a sentence; empty: nothing is waited for."""

    actions: tuple[Action, ...]
    leaving: str = ""
    waits: str = ""


def hold_back(actions: Sequence[Action], held: Mapping[str, str]) -> AllowedActions:
    """``actions`` up to the first that would stop a container of ``held`` (by id, with the reason)."""
    first = actions[0] if actions else None
    leaving = first.container if first is not None and first.kind is ActionKind.STOP else ""
    for index, action in enumerate(actions):
        if action.kind is ActionKind.STOP and action.container in held and not (action.lapsed or action.unhealthy):
            waits = f"the old container {action.name} is not stopped yet: {held[action.container]}"
            return AllowedActions(tuple(actions[:index]), leaving, waits if index == 0 else "")
    return AllowedActions(tuple(actions), leaving)


def serving_containers(case: ServiceState, leaving: str) -> tuple[Container, ...]:
    """The containers of one service that requests are to go to; none that has never been healthy, or up for a moment.
    ``leaving``: as in :class:`AllowedActions`."""
    if case.wanted.completes:
        return ()
    return tuple(candidate for candidate in _candidates(case) if candidate.id != leaving)[:1]


def _candidates(case: ServiceState) -> Iterator[Container]:
    """Those that could, the best first."""
    mine, old = case.mine, case.fallback
    known = mine is not None and mine.state is ContainerState.RUNNING and _has_served(case, mine)
    if mine is not None and (case.running or (known and _unasked(case, mine))):
        yield mine
    if old is not None and old.state is ContainerState.RUNNING and _has_served(case, old):
        yield old
    # The last resort: it was healthy, and is not any more.
    if mine is not None and known and case.health.verdict is ProbeVerdict.UNHEALTHY:
        yield mine


def _unasked(case: ServiceState, mine: Container) -> bool:
    """It is routed to, and not yet known to be as it should: the agent has been restarted, or asks anew."""
    return mine.id in case.held and case.health.verdict is not ProbeVerdict.UNHEALTHY


def _has_served(case: ServiceState, container: Container) -> bool:
    """It has been as it should once. What is routed to has been, also where nothing else is remembered of it."""
    memory = case.memories.get((container.service, container.hash), NO_HISTORY)
    return memory.proved == container.id or container.id in case.held
