"""What to do next in one environment. Pure: the same answer for the same input, no IO, no clock, no randomness.

Cut anywhere and followed by a new observation, every plan converges to the same end (test_plan_cuts.py tries them all).
The executor carries out the first action of each service and asks again. A container is removed only
here, and only for an assignment that has been read and no longer holds it, or that is a tombstone.
"""

from __future__ import annotations

from collections.abc import Sequence

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.action import Action, Kind, Memories, Plan, ServicePlan
from devopsellence.nodeagent.case import Cleanup, rank
from devopsellence.nodeagent.memory import NO_MEMORY
from devopsellence.nodeagent.model import Container, Now, Observed
from devopsellence.nodeagent.plan_service import plan_service
from devopsellence.nodeagent.spec import Desired


def plan(want: Desired, seen: Observed, memories: Memories, now: Now) -> Plan:
    """The next actions for an environment whose assignment has been read."""
    by_service: dict[str, list[Container]] = {}
    for container in seen.containers:
        by_service.setdefault(container.service, []).append(container)
    services = tuple(
        plan_service(want.network, want.services[name], by_service.get(name, ()), seen, memories, now)
        if name in want.services
        else _gone(name, by_service[name], memories, now, removed=want.removed)
        for name in sorted({*want.services, *by_service})
    )
    memory = memories.get(("", ""), NO_MEMORY)
    waits = memory.waits(now.mono)
    return Plan(
        network=() if waits else _network(want, seen, services),
        services=services,
        reason=memory.reason,
        removed=want.removed and not services and seen.network is None,
        network_wake=memory.retry if waits else None,
    )


def _network(want: Desired, seen: Observed, services: Sequence[ServicePlan]) -> tuple[Action, ...]:
    network = seen.network
    if want.removed and network is not None and not services:
        return (Action(Kind.REMOVE_NETWORK, "the environment left this node", container=network.id, name=network.name),)
    if want.services and network is None:
        return (Action(Kind.CREATE_NETWORK, "the environment has no network here", name=want.network),)
    return ()


def _gone(name: str, containers: Sequence[Container], memories: Memories, now: Now, *, removed: bool) -> ServicePlan:
    """A service that the assignment does not hold."""
    why = "the environment left this node" if removed else "the assignment no longer holds this service"
    cleanup = Cleanup(name, memories, now)
    return ServicePlan(
        name,
        stored_pb2.ServiceStatus.STOPPING,
        cleanup.of(containers, why),
        cleanup.memory.reason or why,
        current=max((each for each in containers if each.up), key=rank, default=None),
        retry_wall=cleanup.memory.retry_wall,
        wake=cleanup.wake,
    )
