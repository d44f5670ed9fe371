"""Containers, networks and health as the agent sees them: plain frozen data. Nothing here is stored."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from devopsellence.clock import Now


class ContainerState(enum.StrEnum):
    """State of a container, in the engine's words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """Attachment of a container to a network. ``network_id`` is empty before the first start, ``address`` unless
    running."""

    network_id: str
    address: str


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """Settings of a container that ``docker update`` can change, or that have a default of the agent.

    ``engine_restarts``: the engine restarts the container by itself. ``memory`` (bytes), ``nano_cpus``, ``pids``: 0 for
    no limit. ``defaults``: generation of the agent's defaults at the creation.
    """

    engine_restarts: bool = False
    memory: int = 0
    nano_cpus: int = 0
    pids: int = 0
    new_privileges: bool = True
    net_raw: bool = True
    defaults: int = 0


@dataclass(frozen=True, slots=True)
class Container:
    """A container of this agent, as reported by the engine."""

    id: str
    name: str
    #: Path ``organization/project/environment``.
    environment: str
    service: str
    hash: str
    release: int
    image: str
    state: ContainerState
    #: By network name.
    networks: Mapping[str, NetworkAttachment] = field(default_factory=dict)
    #: Monotonic seconds of this machine; 0 unless running.
    running_since: float = 0.0
    #: Timestamps of the engine (RFC 3339); empty if unknown. They tell starts and ends apart and are shown; they are
    #: compared with nothing else, because a clock can be set back.
    started_at: str = ""
    finished_at: str = ""
    #: Name of the release task; empty for a service's container.
    task: str = ""
    #: Services started before this container and stopped after it, as of its creation.
    depends_on: tuple[str, ...] = ()
    #: Ports of the service by name, as of creation; None: created by an agent without this label.
    ports: Mapping[str, int] | None = None
    #: None while running, and until inspected after the exit.
    exit_code: int | None = None
    #: Container of a one-off task, managed by the operator's call instead of the plan.
    one_off: bool = False
    #: Seconds of the last run by this machine's monotonic clock; None while running, and if the agent was not there.
    ran: float | None = None
    #: None until inspected.
    settings: ContainerSettings | None = None
    #: Names of the volumes by path in the container.
    volumes: Mapping[str, str] = field(default_factory=dict)
    #: Id of the image, and labels of this project; empty once the container is known as this agent's.
    image_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        """Return True while running or paused."""
        return self.state in (ContainerState.RUNNING, ContainerState.PAUSED)

    @property
    def start_key(self) -> str:
        """Identifies a start of a container; empty before the first start."""
        return f"{self.id}@{self.started_at}" if self.started_at else ""

    @property
    def end_key(self) -> str:
        """Identifies an exit of a container; empty until inspected after the exit."""
        return f"{self.id}@{self.finished_at}" if self.finished_at else ""

    def address_on(self, network: str) -> str:
        """Return the container's address on a network; empty if not attached or not running."""
        attachment = self.networks.get(network)
        return attachment.address if attachment else ""


@dataclass(frozen=True, slots=True)
class ForeignContainer:
    """A container that this agent has not created, although it has the agent's labels or one of its names.

    ``environment`` and ``service`` are those of the labels, or of the container whose name it has (``takes_name``).
    """

    id: str
    name: str
    environment: str
    service: str
    takes_name: bool = False


@dataclass(frozen=True, slots=True)
class ImageVolume:
    """A volume that exists because the image of a service declares it (``VOLUME``): it goes with the service.

    ``name`` is the engine's, ``environment`` the path ``organization/project/environment``.
    """

    name: str
    environment: str
    service: str
    target: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Environment, service and path: a service has one volume at a path."""
        return self.environment, self.service, self.target


@dataclass(frozen=True, slots=True)
class Network:
    """A network of this agent."""

    id: str
    name: str
    environment: str


@dataclass(frozen=True, slots=True)
class EngineListing:
    """All containers and networks with this node's uid.

    ``foreign``: containers set apart, because only their labels say that they are this agent's.
    """

    containers: tuple[Container, ...]
    networks: tuple[Network, ...]
    foreign: tuple[ForeignContainer, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """An event of the engine. ``kind``: container, network or image. ``time``: monotonic seconds of this machine, at
    which the event arrived."""

    kind: str
    action: str
    id: str
    attributes: Mapping[str, str]
    time: float


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """Exit of a container. ``ran``: seconds of running, by the engine's clock if the agent was not there.
    ``log_lines``: the last lines of output, oldest first."""

    code: int
    oom_killed: bool
    finished_at: str
    ran: float
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnhealthyContainer:
    """A container found unhealthy, with its output at that moment. ``container``: id. ``at``: seconds since the epoch.
    ``log_lines``: as in :class:`ContainerExit`."""

    container: str
    reason: str
    at: float
    log_lines: tuple[str, ...] = ()


NEVER: Final = Now(0.0, 0.0)


class ProbeVerdict(enum.Enum):
    """Verdict of a container's probes."""

    CHECKING = "checking"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Health:
    """Health of a container. ``past_start_deadline``: no probe has passed within the start deadline. ``message``: last
    failure. ``since``: time of the last change of the verdict."""

    verdict: ProbeVerdict
    past_start_deadline: bool = False
    message: str = ""
    since: Now = NEVER


@dataclass(frozen=True, slots=True)
class Observed:
    """Observed state of an environment. ``health`` is keyed by container id. ``held`` as well: containers not to be
    stopped yet because requests go to them, each with the reason as the end of a sentence. ``hung``: containers about
    which the engine does not answer, with the time (monotonic) of the first question without an answer. ``foreign``:
    containers that are left alone. ``image_volumes``: volumes to be removed with their services."""

    containers: tuple[Container, ...] = ()
    network: Network | None = None
    health: Mapping[str, Health] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    hung: Mapping[str, float] = field(default_factory=dict)
    foreign: tuple[ForeignContainer, ...] = ()
    image_volumes: tuple[ImageVolume, ...] = ()
