"""Plans and actions as frozen data, without decisions."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.plan.history import RestartHistory

#: By service and spec hash. ``(service, "")`` is about the removal of old containers, ``("", "")`` about the network.
RestartHistories: TypeAlias = Mapping[tuple[str, str], RestartHistory]


ServicePhase: TypeAlias = stored_pb2.ServiceStatus.Phase.ValueType
HealthPhase: TypeAlias = stored_pb2.ServiceStatus.Health.ValueType


class ActionKind(enum.StrEnum):
    """Kinds of actions on the engine."""

    CREATE_NETWORK = "create_network"
    REMOVE_NETWORK = "remove_network"
    PULL = "pull"
    CREATE = "create"
    START = "start"
    CONNECT = "connect"
    #: Set settings that were changed by hand (``docker update``) back.
    UPDATE = "update"
    #: Inspect an exited container.
    EXAMINE = "examine"
    #: Read the last output of a container that is not healthy.
    READ_OUTPUT = "read_output"
    STOP = "stop"
    REMOVE = "remove"
    #: Remove a volume that the image of a removed service declared.
    REMOVE_VOLUME = "remove_volume"
    #: Record that the release task cannot be run.
    GIVE_UP = "give_up"


#: Service name of the release task: not valid as the name of a service.
TASK: Final = "+task"
#: Actions that need the environment's network.
NEEDS_NETWORK: Final = frozenset({ActionKind.CREATE, ActionKind.START, ActionKind.CONNECT})


@dataclass(frozen=True, slots=True)
class Action:
    """Action with its reason.

    ``service`` is empty for the network. ``hash`` is that of the spec. ``container`` (id, or the network's id) is empty
    before its creation; ``name``, also that of a volume, is always set. ``unhealthy``: stop of a container that did not
    become healthy in time. ``became_unhealthy``: stop of a container that was healthy before.
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
    """Next actions and status of one service.

    ``current``: container that serves, of the assigned spec or an older one; None for none. ``serving``: containers for
    requests from outside. ``ready``: container of the assigned spec if ready now. ``settled``: ready, and nothing older
    is left. ``wake``: time (monotonic seconds) for a new plan. ``retry_wall``: next attempt (seconds since the epoch),
    0 for none. ``unhealthy_since``: seconds since the epoch, 0 unless probes fail. ``lapses_expired``: healthy for so
    long that former lapses no longer count. ``lasted``: as in :attr:`ServiceState.lasted`. ``waits_for_older``: nothing
    is left to do but to wait for an older container, for the end of its requests or for its stop.
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
    lasted: bool = False
    waits_for_older: bool = False


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Next actions for the containers of release tasks.

    ``status`` is None while the assignment has no task; its reason has no pull progress.
    """

    actions: tuple[Action, ...] = ()
    status: stored_pb2.TaskStatus | None = None
    wake: float | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """Plan of one environment.

    ``reason`` and ``network_wake`` are about the network. ``problem``: reason why nothing here can start, empty for
    none. ``removed``: a tombstone is carried out. ``note``: sentence about anything that stands in nobody's way, such
    as a container of somebody else.
    """

    network: tuple[Action, ...] = ()
    services: tuple[ServicePlan, ...] = ()
    reason: str = ""
    problem: str = ""
    removed: bool = False
    network_wake: float | None = None
    task: TaskPlan = field(default_factory=TaskPlan)
    note: str = ""

    @property
    def actions(self) -> tuple[Action, ...]:
        services = tuple(action for service in self.services for action in service.actions)
        return self.network + services + self.task.actions

    @property
    def wake(self) -> float | None:
        times = (self.network_wake, self.task.wake, *(service.wake for service in self.services))
        return min((time for time in times if time is not None), default=None)
