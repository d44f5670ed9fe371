"""Plan of one environment: the next actions for its network and its services.

Every plan, cut anywhere and followed by a new observation, converges to the same end
(tests/unit/nodeagent/plan/test_cuts.py tries all cuts). The executor carries out the first action of each service and
asks for a new plan. A container is removed only for an assignment that was read and no longer has the container, or
that is a tombstone.

Services are planned after their dependencies; services leaving the node stop in the reverse order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, Observed
from devopsellence.nodeagent.plan.actions import Action, ActionKind, EnvironmentPlan, RestartHistories, ServicePlan
from devopsellence.nodeagent.plan.by_hand import settings_back
from devopsellence.nodeagent.plan.cutover import hold_back
from devopsellence.nodeagent.plan.dependencies import DependencyState, start_order, stops_after, unmet_dependencies
from devopsellence.nodeagent.plan.foreign import name_foreign
from devopsellence.nodeagent.plan.history import GIVE_UP, NETWORK_PROBLEMS, NO_HISTORY
from devopsellence.nodeagent.plan.hung import hung_containers, without_hung
from devopsellence.nodeagent.plan.service import plan_service
from devopsellence.nodeagent.plan.service_state import Cleanup, ServiceState, rank, service_state
from devopsellence.nodeagent.plan.spec import Desired


def plan(desired: Desired, observed: Observed, histories: RestartHistories, now: Now) -> EnvironmentPlan:
    """Return the next actions for an environment. Containers of tasks are left to :func:`task.plan_task`."""
    by_service: dict[str, list[Container]] = {}
    for container in observed.containers:
        if not container.task:
            by_service.setdefault(container.service, []).append(container)
    states = {
        name: service_state(desired.network, assigned, by_service.get(name, ()), observed, histories, now)
        for name, assigned in desired.services.items()
    }
    planned = _plan_assigned(states) | _plan_leaving(desired, by_service, observed, histories, now)
    history = histories.get(("", ""), NO_HISTORY)
    waiting = history.waits(now.mono)
    blocked = history.reason if _needs_network(desired) and observed.network is None else ""
    waiting_services = (_waiting_for_network(planned[name], blocked) for name in sorted(planned))
    services, note = name_foreign(waiting_services, observed.foreign)
    return EnvironmentPlan(
        network=() if waiting else _plan_network(desired, observed),
        services=services,
        reason=history.reason,
        problem=blocked if history.failure in NETWORK_PROBLEMS or history.refusals >= GIVE_UP else "",
        removed=desired.removed and not observed.containers and observed.network is None and not observed.image_volumes,
        network_wake=history.retry if waiting else None,
        note=note,
    )


def _plan_network(desired: Desired, observed: Observed) -> tuple[Action, ...]:
    network = observed.network
    if desired.removed and network is not None and not observed.containers:
        reason = "the environment left this node"
        return (Action(ActionKind.REMOVE_NETWORK, reason, container=network.id, name=network.name),)
    if _needs_network(desired) and network is None:
        return (Action(ActionKind.CREATE_NETWORK, "the environment has no network here", name=desired.network),)
    return ()


def _needs_network(desired: Desired) -> bool:
    return bool(desired.services) or desired.task is not None


def _waiting_for_network(service: ServicePlan, blocked: str) -> ServicePlan:
    """Return the plan with the reason why there is no network, unless the service has a reason of its own."""
    if not blocked or service.settled or service.reason or service.phase == stored_pb2.ServiceStatus.STOPPING:
        return service
    return replace(service, reason=f"waits for the environment's network: {blocked}")


def _plan_assigned(states: Mapping[str, ServiceState]) -> dict[str, ServicePlan]:
    """Plan the assigned services. A service with a problem waits for no dependency: it is not started at all."""
    graph = {
        name: [] if state.assigned.problem else [dependency.service for dependency in state.assigned.spec.depends_on]
        for name, state in states.items()
    }
    planned: dict[str, ServicePlan] = {}
    dependency_states: dict[str, DependencyState] = {}
    for name in start_order(graph):
        state = states[name]
        unmet = unmet_dependencies(state.assigned.spec, dependency_states)
        waits_for_older = all(dependency_states[other].waits_for_older for other in unmet.services)
        service_plan = plan_service(state, unmet.reason, dependencies_wait_for_older=waits_for_older)
        planned[name] = service_plan
        dependency_states[name] = DependencyState(
            state.ready, state.completed, service_plan.reason, service_plan.waits_for_older
        )
    return planned


def _plan_leaving(
    desired: Desired,
    by_service: Mapping[str, Sequence[Container]],
    observed: Observed,
    histories: RestartHistories,
    now: Now,
) -> dict[str, ServicePlan]:
    """Plan the services not in the assignment: a service stops after the leaving containers that depend on it."""
    dependents: dict[str, set[str]] = {}
    for name, containers in by_service.items():
        assigned = desired.services.get(name)
        for container in containers:
            # Dependencies are not part of the spec hash, so the label of a container that stays can be outdated.
            if container.up and (assigned is None or container.hash != assigned.hash):
                for dependency in container.depends_on:
                    dependents.setdefault(dependency, set()).add(name)
    leaving = {*by_service, *(volume.service for volume in observed.image_volumes)} - desired.services.keys()
    return {
        name: _plan_removal(
            name,
            by_service.get(name, ()),
            stops_after(name, dependents),
            Cleanup(name, histories, now),
            observed,
            removed=desired.removed,
        )
        for name in leaving
    }


def _plan_removal(
    name: str,
    containers: Sequence[Container],
    after: Sequence[str],
    cleanup: Cleanup,
    observed: Observed,
    *,
    removed: bool,
) -> ServicePlan:
    """Plan the removal of a service not in the assignment. ``after``: services to stop first."""
    reason = "the environment left this node" if removed else "the assignment no longer holds this service"
    waiting = f"is stopped after {', '.join(after)}, which depends on it" if after else ""
    removable = [container for container in containers if not (after and container.up)]
    volumes = () if containers or cleanup.wake else _remove_volumes(name, observed, reason)
    allowed = hold_back(cleanup.of(removable, reason) or volumes, observed.held)
    hung = hung_containers(containers, observed.hung, cleanup.now.mono)
    return ServicePlan(
        name,
        stored_pb2.ServiceStatus.STOPPING,
        without_hung(settings_back(containers) + allowed.actions, observed.hung),
        hung.reason or cleanup.history.reason or allowed.waits or waiting or reason,
        failed=hung.failed,
        current=max((container for container in containers if container.up), key=rank, default=None),
        retry_wall=cleanup.history.retry_wall,
        wake=min((time for time in (cleanup.wake, hung.wake) if time is not None), default=None),
        lasted=True,
        # A container that cannot be stopped or removed is waited for in vain.
        waits_for_older=not cleanup.history.reason and not hung.reason,
    )


def _remove_volumes(service: str, observed: Observed, reason: str) -> tuple[Action, ...]:
    """Return the removals of the volumes that a removed service had from its image, unless a task still uses them."""
    used = {name for container in observed.containers for name in container.volumes.values()}
    return tuple(
        Action(ActionKind.REMOVE_VOLUME, reason, service, name=volume.name)
        for volume in observed.image_volumes
        if volume.service == service and volume.name not in used
    )
