"""What a plan is made of. Frozen data; no decisions here."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.plan.history import RestartHistory

#: By service and spec hash. ``(service, "")`` is about removing what is left of a service, ``("", "")`` about the
#: network.
RestartHistories: TypeAlias = Mapping[tuple[str, str], RestartHistory]


ServicePhase: TypeAlias = stored_pb2.ServiceStatus.Phase.ValueType
HealthPhase: TypeAlias = stored_pb2.ServiceStatus.Health.ValueType


class ActionKind(enum.StrEnum):
    """What can be done to the engine."""

    CREATE_NETWORK = "create_network"
    REMOVE_NETWORK = "remove_network"
    PULL = "pull"
    CREATE = "create"
    START = "start"
    CONNECT = "connect"
    #: Find out how a container ended.
    EXAMINE = "examine"
    STOP = "stop"
    REMOVE = "remove"
    #: Keep on record that the release's task cannot be run.
    GIVE_UP = "give_up"


#: In place of a service, for the release's task: no service can be called so.
TASK: Final = "+task"
#: These wait for the environment's network.
NEEDS_NETWORK: Final = frozenset({ActionKind.CREATE, ActionKind.START, ActionKind.CONNECT})


@dataclass(frozen=True, slots=True)
class Action:
    """One step, and why.

    ``service`` is empty for the network's. ``hash`` names the spec that it is about. ``container`` (or the network's
    id) is empty for one that is still to be created; ``name`` is always there. ``unhealthy``: the container is stopped
    because it did not become healthy. ``lapsed``: because it was healthy and is not any more.
    """

    kind: ActionKind
    reason: str
    service: str = ""
    hash: str = ""
    container: str = ""
    name: str = ""
    unhealthy: bool = False
    became_unhealthy: bool = False


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one service does next, and how it stands meanwhile.

    ``current`` is the container that serves (of the assigned spec or an older one), None if nothing does. ``serving``:
    those that requests from outside are to go to. ``proved`` is the one that runs as assigned at this moment.
    ``settled``: it does, and nothing older is left. ``wake``: when time alone changes the answer (monotonic seconds).
    ``retry_wall``: the next attempt (seconds since the epoch), 0 if none is due. ``unhealthy_since``: seconds since the
    epoch, 0 unless its checks fail. ``lasting``: it has been healthy for so long that former lapses do not count any
    more.
    """

    service: str
    phase: ServicePhase
    actions: tuple[Action, ...] = ()
    reason: str = ""
    health: HealthPhase = stored_pb2.ServiceStatus.HEALTH_UNSPECIFIED
    current: Container | None = None
    serving: tuple[Container, ...] = ()
    ready: Container | None = None
    settled: bool = False
    failed: bool = False
    retry_wall: float = 0.0
    wake: float | None = None
    unhealthy_since: float = 0.0
    lapses_expired: bool = False


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What the containers of release tasks need next. ``status`` is None while the assignment has no task; its reason
    does not tell how far a pull is."""

    actions: tuple[Action, ...] = ()
    status: stored_pb2.TaskStatus | None = None
    wake: float | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """All of one environment. ``reason`` and ``network_wake`` are about its network. ``removed``: a tombstone has been
    carried out."""

    network: tuple[Action, ...] = ()
    services: tuple[ServicePlan, ...] = ()
    reason: str = ""
    removed: bool = False
    network_wake: float | None = None
    task: TaskPlan = field(default_factory=TaskPlan)

    @property
    def actions(self) -> tuple[Action, ...]:
        services = tuple(action for service in self.services for action in service.actions)
        return self.network + services + self.task.actions

    @property
    def wake(self) -> float | None:
        times = (self.network_wake, self.task.wake, *(service.wake for service in self.services))
        return min((time for time in times if time is not None), default=None)
