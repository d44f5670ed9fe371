"""What the agent knows of the engine, as plain frozen data. Nothing here is stored."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


class ContainerState(enum.StrEnum):
    """A container's state, in the engine's own words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """A container's place on a network. ``network_id`` is empty until it was started there, ``address`` while it is not
    running."""

    network_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Container:
    """One of our containers as the engine shows it."""

    id: str
    name: str
    #: ``organization/project/environment``
    env: str
    service: str
    hash: str
    release: int
    image: str
    state: ContainerState
    #: By network name.
    networks: Mapping[str, NetworkAttachment] = field(default_factory=dict)
    #: Monotonic seconds of this host; only while it runs.
    running_since: float = 0.0
    #: The engine's own timestamps (RFC 3339); empty where not known or not yet.
    started_at: str = ""
    finished_at: str = ""
    #: The name of the task that it was made for; empty for a service's container.
    task: str = ""
    #: The services that its own was to be stopped before, as of when it was made.
    depends_on: tuple[str, ...] = ()
    #: By name, those that its own listened on when it was made; None: that was not kept then.
    ports: Mapping[str, int] | None = None
    #: How it ended; None while it runs, and until it has been examined.
    exit_code: int | None = None
    #: Run by hand by an operator, whose call looks after it.
    one_off: bool = False

    @property
    def up(self) -> bool:
        return self.state in (ContainerState.RUNNING, ContainerState.PAUSED)

    @property
    def start_key(self) -> str:
        """Names one start of one container; empty before the first."""
        return f"{self.id}@{self.started_at}" if self.started_at else ""

    @property
    def end_key(self) -> str:
        """Names one end of one container; empty until it has been examined."""
        return f"{self.id}@{self.finished_at}" if self.finished_at else ""

    def address_on(self, network: str) -> str:
        attachment = self.networks.get(network)
        return attachment.address if attachment else ""


@dataclass(frozen=True, slots=True)
class Network:
    """One of our networks."""

    id: str
    name: str
    env: str


@dataclass(frozen=True, slots=True)
class EngineListing:
    """All that carries our node's uid."""

    containers: tuple[Container, ...]
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something happened on the engine. ``kind`` is container, network or image; ``time``: seconds, its clock."""

    kind: str
    action: str
    id: str
    attributes: Mapping[str, str]
    time: float


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """How a container ended. ``ran`` is seconds on the engine's clock; log lines are the last ones, oldest first."""

    code: int
    oom_killed: bool
    finished_at: str
    ran: float
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on two clocks: ``mono`` for intervals, ``wall`` (seconds since the epoch) for what people read."""

    mono: float
    wall: float


NEVER: Final = Now(0.0, 0.0)


class ProbeVerdict(enum.Enum):
    """What the health checks of a container amount to."""

    CHECKING = "checking"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Health:
    """``overdue``: has not passed once since its start, in all the time it was given. ``message``: the last failure.
    ``since``: when the verdict became what it is."""

    verdict: ProbeVerdict
    overdue: bool = False
    message: str = ""
    since: Now = NEVER


@dataclass(frozen=True, slots=True)
class Observed:
    """One environment on the engine, now. ``health`` is by container id, as is ``held``: those that must not be stopped
    yet, because requests go to them, with the reason as the end of a sentence."""

    containers: tuple[Container, ...] = ()
    network: Network | None = None
    health: Mapping[str, Health] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
