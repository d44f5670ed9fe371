"""Plan of one assigned service: its next actions and its status.

The old container serves until the new container is ready: healthy or, without probes, up for ``SETTLE_SECONDS``. The
old container is stopped when it has no requests in progress (``cutover``). A service with volumes stops the old
container first, because two containers must not share volumes; but only when the new container has been created, so
that a missing image or a malformed spec shows while the old container serves, and when all dependencies of the new
container are met.

A container that became unhealthy is replaced: at once the first time, then after ever longer waits. A service that is
to complete runs until it exits with code 0; its container stays as the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, ContainerState, ProbeVerdict
from devopsellence.nodeagent.plan.actions import Action, ActionKind, HealthPhase, ServicePhase, ServicePlan
from devopsellence.nodeagent.plan.by_hand import settings_back
from devopsellence.nodeagent.plan.cutover import AllowedActions, hold_back, serving_containers
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause
from devopsellence.nodeagent.plan.hung import hung_containers, without_hung
from devopsellence.nodeagent.plan.service_state import SETTLE_SECONDS, ServiceState, action_on, rank

_Status = stored_pb2.ServiceStatus
_HEALTH: Final = {
    ProbeVerdict.CHECKING: _Status.CHECKING,
    ProbeVerdict.HEALTHY: _Status.HEALTHY,
    ProbeVerdict.UNHEALTHY: _Status.UNHEALTHY,
}


@dataclass(frozen=True, slots=True)
class _Step:
    """Next actions for the container of the assigned spec, with the phase for the status."""

    phase: ServicePhase
    reason: str = ""
    actions: tuple[Action, ...] = ()
    #: Time of the next attempt, if known: monotonic, and in seconds since the epoch.
    wake: float | None = None
    retry_wall: float = 0.0


def plan_service(state: ServiceState, waits: str, *, dependencies_wait_for_older: bool = False) -> ServicePlan:
    """Return the next actions for one assigned service.

    ``waits``: sentence about the dependencies to wait for before the start; empty for none.
    ``dependencies_wait_for_older``: all of these only wait for older containers.
    """
    step = _next_step(state, waits)
    cleanup = state.cleanup
    if state.has_been_ready:
        leftover = cleanup.of(state.others, "the new container serves")
    else:
        leftover = cleanup.of(state.surplus, "neither assigned nor needed until the new container serves")
    lapses_expire_at = state.lapses_expire_at
    read = (_read_output(state),) if state.is_output_unread else ()
    allowed = hold_back(read + (_upkeep(state, waits) or step.actions + leftover), state.held)
    containers = (*((state.container,) if state.container else ()), *state.others)
    hung = hung_containers(containers, state.hung, state.now.mono)
    return ServicePlan(
        service=state.assigned.spec.name,
        phase=step.phase,
        actions=without_hung(settings_back(containers, state.assigned) + allowed.actions, state.hung),
        reason=hung.reason or step.reason or allowed.waits or cleanup.history.reason or _why_untrusted(state, step),
        health=_health(state),
        current=_current(state),
        serving=serving_containers(state, allowed.draining),
        ready=state.container if state.running else None,
        settled=_settled(state, step) and not hung.reason,
        failed=state.failed or hung.failed,
        retry_wall=state.history.retry_wall if step.phase == _Status.BACKOFF else step.retry_wall,
        wake=min((time for time in (_wake(state, step), hung.wake) if time is not None), default=None),
        unhealthy_since=state.health.since.wall if _health(state) == _Status.UNHEALTHY else 0.0,
        lapses_expired=lapses_expire_at is not None and state.now.mono >= lapses_expire_at,
        lasted=state.lasted,
        # A hung container is waited for in vain.
        waits_for_older=not hung.reason
        and (_waits_for_older(state, allowed) or bool(waits and waits == step.reason and dependencies_wait_for_older)),
    )


def _settled(state: ServiceState, step: _Step) -> bool:
    if state.others or state.failed:
        return False
    return state.completed or (state.running and step.phase == _Status.RUNNING and state.now.mono >= state.trusted_at)


def _why_untrusted(state: ServiceState, step: _Step) -> str:
    if step.phase != _Status.RUNNING or state.now.mono >= state.trusted_at:
        return ""
    return _unstable_reason(state)


def _waits_for_older(state: ServiceState, allowed: AllowedActions) -> bool:
    """Return True if the next action is the stop of an older container, or has to wait for the end of its requests.

    A container that does not serve is also stopped while the new one becomes ready: that is not waited for.
    """
    blocked = state.assigned.stateful and (state.container is None or not state.container.up)
    if not state.has_been_ready and not blocked:
        return False
    if allowed.waits:
        return True
    first = allowed.actions[0] if allowed.actions else None
    older = {container.id for container in state.others}
    return first is not None and first.kind is ActionKind.STOP and first.container in older


def _next_step(state: ServiceState, waits: str) -> _Step:
    if state.assigned.problem:
        return _Step(_Status.PENDING, state.assigned.problem)
    container = state.container
    if container is None:
        return _absent(state, waits)
    if container.up:
        return _up(state, container, waits)
    if container.state is ContainerState.REMOVING:
        return _Step(_Status.PENDING, "its container is being removed")
    if container.state is ContainerState.DEAD:
        return _Step(_Status.PENDING, "", state.cleanup.of((container,), "the engine could not remove it"))
    if container.state is ContainerState.EXITED and state.history.replaced_container == container.id:
        return _recreate(state, container, state.history.reason, waits)
    if container.state is ContainerState.EXITED and (
        not container.end_key or container.end_key != state.history.counted_exit
    ):
        return _Step(_Status.STARTING, "has ended", (state.action(ActionKind.EXAMINE, "it has ended"),))
    if state.completed:
        return _Step(_Status.COMPLETED)
    if _in_backoff(state):
        return _Step(_Status.BACKOFF, state.history.reason)
    if _on_removed_network(state, container):
        return _recreate(state, container, "its network is gone, and it cannot be started without", waits)
    if waits:
        return _Step(_Status.PENDING, waits)
    return _Step(_Status.STARTING, state.history.reason, (*_stop_others_with_volumes(state), _start(state)))


def _recreate(state: ServiceState, container: Container, reason: str, waits: str) -> _Step:
    """Remove the container, which is not running, and create another."""
    remove = state.cleanup.of((container,), reason)
    if not remove:
        return _Step(_Status.BACKOFF, state.cleanup.history.reason)
    phase, start = (
        (_Status.PENDING, ()) if waits else (_Status.STARTING, (*_stop_others_with_volumes(state), _start(state)))
    )
    return _Step(phase, waits or state.history.reason, (*remove, _create(state), *start))


def _absent(state: ServiceState, waits: str) -> _Step:
    if _in_backoff(state):
        return _Step(_Status.BACKOFF, state.history.reason)
    actions = (_create(state), *(() if waits else (*_stop_others_with_volumes(state), _start(state))))
    if state.history.image_missing and state.assigned.can_pull:
        pull = state.action(ActionKind.PULL, "its image is not on this machine")
        return _Step(_Status.PULLING, state.assigned.pull_message, (pull, *actions))
    return _Step(_Status.PENDING, waits or state.history.reason, actions)


def _in_backoff(state: ServiceState) -> bool:
    """Return True during the backoff before the next attempt.

    A container that crashed and was then removed by hand is recreated at once: its removal is taken as a request.
    """
    is_recreated = state.container is None or state.container.state is ContainerState.CREATED
    return state.waits and not (is_recreated and state.history.failure is FailureCause.CRASHED)


def _up(state: ServiceState, container: Container, waits: str) -> _Step:
    network = state.network
    if network is None or container.networks.get(state.network_name) is None or _on_removed_network(state, container):
        if state.waits:
            return _Step(_Status.BACKOFF, state.history.reason)
        reason = "it is not on its environment's network"
        return _Step(_Status.STARTING, reason, (state.action(ActionKind.CONNECT, reason),))
    if container.state is ContainerState.PAUSED:
        return _Step(_Status.RUNNING, f"is paused (docker unpause {container.name})")
    if state.running:
        return _Step(_Status.RUNNING, _unstable_reason(state) if state.failed else state.health.message)
    if state.assigned.completes:
        return _Step(_Status.STARTING, "has not completed yet")
    if not state.assigned.probes:
        return _Step(_Status.STARTING)
    return _became_unhealthy(state, container, waits) if state.became_unhealthy else _not_ready_yet(state)


def _not_ready_yet(state: ServiceState) -> _Step:
    """Return the step for a container that is up and has never been healthy."""
    message = state.health.message
    if state.past_start_deadline and not state.has_been_ready and state.fallback is not None and state.fallback.up:
        reason = f"not healthy in time: {message}"
        stop = () if state.cleanup.wake else (state.action(ActionKind.STOP, reason, unhealthy=True),)
        return _Step(_Status.STARTING, reason, stop)
    if state.health.verdict is ProbeVerdict.UNHEALTHY:
        return _Step(_Status.STARTING, f"not healthy: {message}")
    return _Step(_Status.STARTING, f"not healthy yet: {message}" if message else "")


def _became_unhealthy(state: ServiceState, container: Container, waits: str) -> _Step:
    """Return the step for a container that became unhealthy: a replacement.

    There is none shortly after the last replacement, nor while the new container would have to wait for dependencies.
    """
    reason = f"not healthy: {state.health.message}"
    if waits:
        return _Step(_Status.RUNNING, f"{reason}; is not replaced, because it {waits}")
    if state.now.mono < state.replace_at:
        wall = state.now.wall + state.replace_at - state.now.mono
        return _Step(_Status.RUNNING, f"{reason}; is replaced again later", (), state.replace_at, wall)
    if state.cleanup.wake:
        return _Step(_Status.RUNNING, reason)
    stop = state.action(ActionKind.STOP, reason, became_unhealthy=True)
    return _Step(
        _Status.RUNNING, reason, (stop, action_on(ActionKind.REMOVE, reason, container), _create(state), _start(state))
    )


def _upkeep(state: ServiceState, waits: str) -> tuple[Action, ...]:
    """Keep the old container serving until the new container is ready, unless a volume is shared."""
    old, container = state.fallback, state.container
    if old is None or old.up or state.has_been_ready or state.assigned.completes:
        return ()
    if (
        state.shares_volumes(old)
        and container is not None
        and not (waits and container.state is ContainerState.CREATED)
    ):
        return ()
    history = state.histories.get((old.service, old.hash), NO_HISTORY)
    if not old.end_key or old.end_key != history.counted_exit:
        return (action_on(ActionKind.EXAMINE, "the container that serves has ended", old),)
    if history.waits(state.now.mono):
        return ()
    return (action_on(ActionKind.START, "it serves until the new container does", old),)


def _stop_others_with_volumes(state: ServiceState) -> tuple[Action, ...]:
    """Stop the old containers that share a volume with the new one, configured or declared by the image."""
    reason = "two containers must not share its volumes"
    return tuple(
        action_on(ActionKind.STOP, reason, container)
        for container in sorted(state.others, key=rank)
        if container.up and state.shares_volumes(container)
    )


def _create(state: ServiceState) -> Action:
    if state.others:
        return state.action(ActionKind.CREATE, "its spec changed")
    if state.history.failure is FailureCause.UNHEALTHY:
        return state.action(ActionKind.CREATE, state.history.reason)
    return state.action(
        ActionKind.CREATE, "its container is gone" if state.history.starts else "it has no container yet"
    )


def _read_output(state: ServiceState) -> Action:
    return state.action(ActionKind.READ_OUTPUT, f"not healthy: {state.health.message}")


def _start(state: ServiceState) -> Action:
    return state.action(ActionKind.START, state.history.reason or "it does not run")


def _on_removed_network(state: ServiceState, container: Container) -> bool:
    """Return True if the container was on a network of this name that has been removed since."""
    attachment = container.networks.get(state.network_name)
    if attachment is None or not attachment.network_id:
        return False
    return state.network is None or attachment.network_id != state.network.id


def _unstable_reason(state: ServiceState) -> str:
    times = "once" if state.history.unstable == 1 else f"{state.history.unstable} times"
    return f"runs again, but has ended {times} within {state.history.stable_seconds:.0f} s of its start"


def _current(state: ServiceState) -> Container | None:
    container = state.container if state.container and (state.container.up or state.completed) else None
    if container and state.has_been_ready:
        return container
    return state.fallback if state.fallback and state.fallback.up else container


def _health(state: ServiceState) -> HealthPhase:
    if not state.assigned.probes:
        return _Status.NONE
    if state.container is None or not state.container.up:
        return _Status.HEALTH_UNSPECIFIED
    if state.is_output_unread:
        return _Status.HEALTHY if state.became_unhealthy else _Status.CHECKING
    return _HEALTH[state.health.verdict]


def _wake(state: ServiceState, step: _Step) -> float | None:
    times = [state.cleanup.wake, step.wake, state.lapses_expire_at, state.history.retry if state.waits else None]
    if state.fallback is not None:
        history = state.histories.get((state.fallback.service, state.fallback.hash), NO_HISTORY)
        times.append(history.retry if history.waits(state.now.mono) else None)
    if state.container is not None and state.container.up:
        if not state.assigned.probes:
            times.append(state.container.running_since + SETTLE_SECONDS)
        if not state.history.lasted:
            times.append(state.lasts_at)
        if state.history.unstable:
            times += [state.stable_at, state.trusted_at]
    return min((time for time in times if time is not None and time > state.now.mono), default=None)
