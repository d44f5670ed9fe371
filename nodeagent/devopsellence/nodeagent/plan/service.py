"""What to do next about one assigned service. Pure; part of :mod:`plan`.

The old container serves until the new one has proved itself: it is healthy, or, without a check, has been up for a
moment (``SETTLE_SECONDS``); and it is stopped when no request is under way on it (``serving``). A service with volumes
stops the old one first, because two copies must not share them; but not before the new container has been created,
which finds a missing image or a malformed spec while the old one still serves, nor before everything is there that the
new one depends on.

A container that was healthy and is not any more is replaced: at once the first time, then ever more slowly. A service
that others wait for to complete is run until it ends with exit code 0; its container stays, as the record of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, ContainerState, ProbeVerdict
from devopsellence.nodeagent.plan.actions import Action, ActionKind, HealthPhase, ServicePhase, ServicePlan
from devopsellence.nodeagent.plan.cutover import hold_back, serving_containers
from devopsellence.nodeagent.plan.history import GIVE_UP, NO_HISTORY, STABLE_SECONDS, FailureCause
from devopsellence.nodeagent.plan.service_state import SETTLE_SECONDS, ServiceState, action_on, rank

_Status = stored_pb2.ServiceStatus
_HEALTH: Final = {
    ProbeVerdict.CHECKING: _Status.CHECKING,
    ProbeVerdict.HEALTHY: _Status.HEALTHY,
    ProbeVerdict.UNHEALTHY: _Status.UNHEALTHY,
}


@dataclass(frozen=True, slots=True)
class _Step:
    """What the container of the assigned spec needs next."""

    phase: ServicePhase
    reason: str = ""
    actions: tuple[Action, ...] = ()
    #: When it goes on, if that is known: on the monotonic clock, and on the one that people read.
    wake: float | None = None
    retry_wall: float = 0.0


def plan_service(case: ServiceState, waits: str) -> ServicePlan:
    """The next actions for one service of an assignment. ``waits``: what it must wait for before it is started, in a
    sentence; empty if for nothing."""
    step = _step(case, waits)
    cleanup = case.cleanup
    if case.proved:
        leftover = cleanup.of(case.others, "the new container serves")
    else:
        leftover = cleanup.of(case.surplus, "neither assigned nor needed until the new container serves")
    lasting_at = case.lasting_at
    way = hold_back(_upkeep(case, waits) or step.actions + leftover, case.held)
    return ServicePlan(
        service=case.wanted.service.name,
        phase=step.phase,
        actions=way.actions,
        reason=step.reason or way.waits or cleanup.memory.reason,
        health=_health(case),
        current=_current(case),
        serving=serving_containers(case, way.leaving),
        proved=case.mine if case.running else None,
        settled=_settled(case, step),
        failed=case.failed,
        retry_wall=case.memory.retry_wall if step.phase == _Status.BACKOFF else step.retry_wall,
        wake=_wake(case, step),
        unhealthy_since=case.health.since.wall if _health(case) == _Status.UNHEALTHY else 0.0,
        lasting=lasting_at is not None and case.now.mono >= lasting_at,
    )


def _settled(case: ServiceState, step: _Step) -> bool:
    if case.others or case.failed:
        return False
    return case.completed or (case.running and step.phase == _Status.RUNNING)


def _step(case: ServiceState, waits: str) -> _Step:
    if case.wanted.obstacle:
        return _Step(_Status.PENDING, case.wanted.obstacle)
    mine = case.mine
    if mine is None:
        return _absent(case, waits)
    if mine.up:
        return _up(case, mine, waits)
    if mine.state is ContainerState.REMOVING:
        return _Step(_Status.PENDING, "its container is being removed")
    if mine.state is ContainerState.DEAD:
        return _Step(_Status.PENDING, "", case.cleanup.of((mine,), "the engine could not remove it"))
    if mine.state is ContainerState.EXITED and case.memory.discarded == mine.id:
        return _anew(case, mine, case.memory.reason, waits)
    if mine.state is ContainerState.EXITED and (not mine.end_key or mine.end_key != case.memory.examined):
        return _Step(_Status.STARTING, "has ended", (case.action(ActionKind.EXAMINE, "it has ended"),))
    if case.completed:
        return _Step(_Status.COMPLETED)
    if _held_back(case):
        return _Step(_Status.BACKOFF, case.memory.reason)
    if _stale(case, mine):
        return _anew(case, mine, "its network is gone, and it cannot be started without", waits)
    if waits:
        return _Step(_Status.PENDING, waits)
    return _Step(_Status.STARTING, case.memory.reason, (*_make_way(case), _start(case)))


def _anew(case: ServiceState, mine: Container, why: str, waits: str) -> _Step:
    """Its container, which does not run, is removed and another is made."""
    remove = case.cleanup.of((mine,), why)
    if not remove:
        return _Step(_Status.BACKOFF, case.cleanup.memory.reason)
    phase, start = (_Status.PENDING, ()) if waits else (_Status.STARTING, (*_make_way(case), _start(case)))
    return _Step(phase, waits or case.memory.reason, (*remove, _create(case), *start))


def _absent(case: ServiceState, waits: str) -> _Step:
    if _held_back(case):
        return _Step(_Status.BACKOFF, case.memory.reason)
    actions = (_create(case), *(() if waits else (*_make_way(case), _start(case))))
    if case.memory.image_missing and case.wanted.obtainable:
        pull = case.action(ActionKind.PULL, "its image is not on this machine")
        return _Step(_Status.PULLING, case.wanted.obtaining, (pull, *actions))
    return _Step(_Status.PENDING, waits or case.memory.reason, actions)


def _held_back(case: ServiceState) -> bool:
    """It is too early for the next attempt. A container that crashed and was then removed by hand is made anew at once:
    who removes it wants it so."""
    anew = case.mine is None or case.mine.state is ContainerState.CREATED
    return case.waits and not (anew and case.memory.trouble is FailureCause.CRASHED)


def _up(case: ServiceState, mine: Container, waits: str) -> _Step:
    network = case.network
    if network is None or mine.networks.get(case.network_name) is None or _stale(case, mine):
        if case.waits:
            return _Step(_Status.BACKOFF, case.memory.reason)
        reason = "it is not on its environment's network"
        return _Step(_Status.STARTING, reason, (case.action(ActionKind.CONNECT, reason),))
    if mine.state is ContainerState.PAUSED:
        return _Step(_Status.RUNNING, f"is paused (docker unpause {mine.name})")
    if case.running:
        return _Step(_Status.RUNNING, _unstable(case) if case.failed else "")
    if case.wanted.completes:
        return _Step(_Status.STARTING, "has not completed yet")
    if not case.wanted.probes:
        return _Step(_Status.STARTING)
    return _lapsed(case, mine, waits) if case.lapsed else _unproved(case)


def _unproved(case: ServiceState) -> _Step:
    """It is up, and has never been healthy."""
    message = case.health.message
    if case.overdue and not case.proved and case.fallback is not None and case.fallback.up:
        reason = f"not healthy in time: {message}"
        stop = () if case.cleanup.wake else (case.action(ActionKind.STOP, reason, unhealthy=True),)
        return _Step(_Status.STARTING, reason, stop)
    if case.health.verdict is ProbeVerdict.UNHEALTHY:
        return _Step(_Status.STARTING, f"not healthy: {message}")
    return _Step(_Status.STARTING, f"not healthy yet: {message}" if message else "")


def _lapsed(case: ServiceState, mine: Container, waits: str) -> _Step:
    """It was healthy and is not any more: it is replaced, unless that was done a while ago only, or the new one would
    have to wait before it could be started."""
    reason = f"not healthy: {case.health.message}"
    if waits:
        return _Step(_Status.RUNNING, f"{reason}; is not replaced, because it {waits}")
    if case.now.mono < case.lapse_at:
        wall = case.now.wall + case.lapse_at - case.now.mono
        return _Step(_Status.RUNNING, f"{reason}; is replaced again later", (), case.lapse_at, wall)
    if case.cleanup.wake:
        return _Step(_Status.RUNNING, reason)
    stop = case.action(ActionKind.STOP, reason, lapsed=True)
    return _Step(_Status.RUNNING, reason, (stop, action_on(ActionKind.REMOVE, reason, mine), _create(case), _start(case)))


def _upkeep(case: ServiceState, waits: str) -> tuple[Action, ...]:
    """Keep the old container serving while the new one is not there yet, unless it had to make way."""
    old, mine = case.fallback, case.mine
    if old is None or old.up or case.proved or case.wanted.completes:
        return ()
    if case.wanted.stateful and mine is not None and not (waits and mine.state is ContainerState.CREATED):
        return ()
    memory = case.memories.get((old.service, old.hash), NO_HISTORY)
    if not old.end_key or old.end_key != memory.examined:
        return (action_on(ActionKind.EXAMINE, "the container that serves has ended", old),)
    if memory.waits(case.now.mono):
        return ()
    return (action_on(ActionKind.START, "it serves until the new container does", old),)


def _make_way(case: ServiceState) -> tuple[Action, ...]:
    if not case.wanted.stateful:
        return ()
    why = "two containers must not share its volumes"
    return tuple(action_on(ActionKind.STOP, why, each) for each in sorted(case.others, key=rank) if each.up)


def _create(case: ServiceState) -> Action:
    if case.others:
        return case.action(ActionKind.CREATE, "its spec changed")
    if case.memory.trouble is FailureCause.UNHEALTHY:
        return case.action(ActionKind.CREATE, case.memory.reason)
    return case.action(ActionKind.CREATE, "its container is gone" if case.memory.starts else "it has no container yet")


def _start(case: ServiceState) -> Action:
    return case.action(ActionKind.START, case.memory.reason or "it does not run")


def _stale(case: ServiceState, mine: Container) -> bool:
    """The container was on a network of this name that has since been removed."""
    attachment = mine.networks.get(case.network_name)
    if attachment is None or not attachment.network_id:
        return False
    return case.network is None or attachment.network_id != case.network.id


def _unstable(case: ServiceState) -> str:
    return f"runs again, but has ended {case.memory.unstable} times within {STABLE_SECONDS:.0f} s of its start"


def _current(case: ServiceState) -> Container | None:
    mine = case.mine if case.mine and (case.mine.up or case.completed) else None
    if mine and case.proved:
        return mine
    return case.fallback if case.fallback and case.fallback.up else mine


def _health(case: ServiceState) -> HealthPhase:
    if not case.wanted.probes:
        return _Status.NONE
    if case.mine is None or not case.mine.up:
        return _Status.HEALTH_UNSPECIFIED
    return _HEALTH[case.health.verdict]


def _wake(case: ServiceState, step: _Step) -> float | None:
    times = [case.cleanup.wake, step.wake, case.lasting_at, case.memory.retry if case.waits else None]
    if case.fallback is not None:
        memory = case.memories.get((case.fallback.service, case.fallback.hash), NO_HISTORY)
        times.append(memory.retry if memory.waits(case.now.mono) else None)
    if case.mine is not None and case.mine.up:
        if not case.wanted.probes:
            times.append(case.mine.running_since + SETTLE_SECONDS)
        if case.memory.unstable >= GIVE_UP:
            times.append(case.stable_at)
    return min((time for time in times if time is not None and time > case.now.mono), default=None)
