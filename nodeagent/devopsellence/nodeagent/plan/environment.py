"""What to do next in one environment. Pure: the same answer for the same input, no IO, no clock, no randomness.

Cut anywhere and followed by a new observation, every plan converges to the same end (test_plan_cuts.py tries them all).
The executor carries out the first action of each service and asks again. A container is removed only
here, and only for an assignment that has been read and no longer holds it, or that is a tombstone.

Services are planned after those that they depend on, and what leaves is stopped in the reverse order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, Now, Observed
from devopsellence.nodeagent.plan.actions import Action, Kind, Memories, Plan, ServicePlan
from devopsellence.nodeagent.plan.cutover import course
from devopsellence.nodeagent.plan.dependencies import Standing, held_by, order, waits
from devopsellence.nodeagent.plan.history import NO_MEMORY
from devopsellence.nodeagent.plan.service import plan_service
from devopsellence.nodeagent.plan.service_state import Case, Cleanup, case_of, rank
from devopsellence.nodeagent.plan.spec import Desired


def plan(want: Desired, seen: Observed, memories: Memories, now: Now) -> Plan:
    """The next actions for an environment whose assignment has been read. Containers of tasks are not its business."""
    by_service: dict[str, list[Container]] = {}
    for container in seen.containers:
        if not container.task:
            by_service.setdefault(container.service, []).append(container)
    cases = {
        name: case_of(want.network, wanted, by_service.get(name, ()), seen, memories, now)
        for name, wanted in want.services.items()
    }
    planned = _assigned(cases) | _leaving(want, by_service, seen, memories, now)
    services = tuple(planned[name] for name in sorted(planned))
    memory = memories.get(("", ""), NO_MEMORY)
    waiting = memory.waits(now.mono)
    return Plan(
        network=() if waiting else _network(want, seen),
        services=services,
        reason=memory.reason,
        removed=want.removed and not seen.containers and seen.network is None,
        network_wake=memory.retry if waiting else None,
    )


def _network(want: Desired, seen: Observed) -> tuple[Action, ...]:
    network = seen.network
    if want.removed and network is not None and not seen.containers:
        return (Action(Kind.REMOVE_NETWORK, "the environment left this node", container=network.id, name=network.name),)
    if (want.services or want.task is not None) and network is None:
        return (Action(Kind.CREATE_NETWORK, "the environment has no network here", name=want.network),)
    return ()


def _assigned(cases: Mapping[str, Case]) -> dict[str, ServicePlan]:
    """What the assignment holds. A service with an obstacle waits for nobody: it is not started at all."""
    depends = {
        name: [] if case.wanted.obstacle else [each.service for each in case.wanted.service.depends_on]
        for name, case in cases.items()
    }
    planned: dict[str, ServicePlan] = {}
    standings: dict[str, Standing] = {}
    for name in order(depends):
        case = cases[name]
        made = planned[name] = plan_service(case, waits(case.wanted.service, standings))
        started = case.mine is not None and case.mine.up
        standings[name] = Standing(started, case.ready, case.completed, made.reason)
    return planned


def _leaving(
    want: Desired, by_service: Mapping[str, Sequence[Container]], seen: Observed, memories: Memories, now: Now
) -> dict[str, ServicePlan]:
    """What it does not hold: stopped after those containers on their way out that were started after it."""
    dependents: dict[str, set[str]] = {}
    for name, containers in by_service.items():
        wanted = want.services.get(name)
        for container in containers:
            # The label of a container that stays may be stale: it is not part of the spec.
            if container.up and (wanted is None or container.hash != wanted.hash):
                for dependency in container.depends_on:
                    dependents.setdefault(dependency, set()).add(name)
    return {
        name: _gone(
            name, containers, held_by(name, dependents), Cleanup(name, memories, now), seen, removed=want.removed
        )
        for name, containers in by_service.items()
        if name not in want.services
    }


def _gone(
    name: str, containers: Sequence[Container], first: Sequence[str], cleanup: Cleanup, seen: Observed, *, removed: bool
) -> ServicePlan:
    """A service that the assignment does not hold. ``first``: who has to stop before it."""
    why = "the environment left this node" if removed else "the assignment no longer holds this service"
    waiting = f"is stopped after {', '.join(first)}, which depends on it" if first else ""
    way = course(cleanup.of([container for container in containers if not (first and container.up)], why), seen.held)
    return ServicePlan(
        name,
        stored_pb2.ServiceStatus.STOPPING,
        way.actions,
        cleanup.memory.reason or way.waits or waiting or why,
        current=max((container for container in containers if container.up), key=rank, default=None),
        retry_wall=cleanup.memory.retry_wall,
        wake=cleanup.wake,
    )
