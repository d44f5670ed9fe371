"""In-memory engine that carries out plans, with builders for services, containers and desired states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerExit,
    ContainerSettings,
    ContainerState,
    Health,
    ImageVolume,
    Network,
    NetworkAttachment,
    Observed,
    ProbeVerdict,
)
from devopsellence.nodeagent.docker.ownership import image_volume
from devopsellence.nodeagent.plan.actions import Action, ActionKind, EnvironmentPlan
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, RestartHistory
from devopsellence.nodeagent.plan.repeats import RepeatedActions
from devopsellence.nodeagent.plan.spec import Desired, DesiredService, resolve_assignment
from devopsellence.nodeagent.reconcile.executor import change_before
from devopsellence.store.keys import EnvironmentRef

ENV = EnvironmentRef("acme", "shop", "production")
UID = "uid-1"
IMAGE = "sha256:" + "a" * 64
REMOTE = "registry.example/shop@sha256:" + "b" * 64


STARTED = workload_pb2.Dependency.SERVICE_STARTED
HEALTHY = workload_pb2.Dependency.SERVICE_HEALTHY
COMPLETED = workload_pb2.Dependency.SERVICE_COMPLETED_SUCCESSFULLY


def service(
    name: str = "web",
    version: str = "1",
    *,
    check: bool = False,
    volume: bool = False,
    image: str = IMAGE,
    after: Mapping[str, workload_pb2.Dependency.Condition.ValueType] | None = None,
) -> workload_pb2.Service:
    """Build a service; another ``version`` is another spec. ``after``: dependencies of its start."""
    result = workload_pb2.Service(
        name=name,
        kind=workload_pb2.Service.WEB,
        image=workload_pb2.Image(pinned=image),
        env={"VERSION": version},
    )
    if check:
        result.healthcheck.path, result.healthcheck.port = "/up", 3000
    if volume:
        result.volumes.add(source="data", target="/data")
    for other, condition in (after or {}).items():
        result.depends_on.add(service=other, condition=condition)
    return result


def full_service() -> workload_pb2.Service:
    """Build a service with all fields of the spec hash set."""
    spec = service("web", check=True, volume=True)
    spec.command.extend(["/bin/serve"])
    spec.args.extend(["--port", "3000"])
    spec.ports.add(name="http", port=3000)
    spec.resources.cpu_millis, spec.resources.memory_mib = 1500, 256
    spec.stop_grace_period.FromMilliseconds(2500)
    spec.image.reference = "shop:1"
    return spec


def desired_of(*services: workload_pb2.Service, release: int = 1, removed: bool = False) -> Desired:
    """Build the desired state of these services; services with dependents that wait for completion are marked, as in
    releases.
    """
    awaited = {
        dependency.service for spec in services for dependency in spec.depends_on if dependency.condition == COMPLETED
    }
    for spec in services:
        spec.completes = spec.name in awaited
    assignment = stored_pb2.Assignment(
        node="n1", node_uid=UID, generation=release, release=release, services=services, removed=removed
    )
    return resolve_assignment(assignment, ENV, UID)


def desired_service(spec: workload_pb2.Service) -> DesiredService:
    return desired_of(spec).services[spec.name]


def container(
    spec: workload_pb2.Service,
    state: ContainerState = ContainerState.RUNNING,
    *,
    identity: str = "",
    since: float = 0.0,
    release: int = 1,
    network: str = "net-1",
    finished: str = "",
    code: int | None = None,
) -> Container:
    """Build a container of a service's assigned."""
    assigned = desired_service(spec)
    return Container(
        id=identity or f"{spec.name}-{assigned.hash[:6]}",
        name=assigned.name,
        environment=str(ENV),
        service=spec.name,
        hash=assigned.hash,
        release=release,
        image=IMAGE,
        state=state,
        networks={
            desired_of(spec).network: NetworkAttachment(
                network, "172.18.0.2" if state is ContainerState.RUNNING else ""
            )
        },
        running_since=since,
        started_at="2026-01-01T00:00:00Z" if state is not ContainerState.CREATED else "",
        finished_at=finished,
        depends_on=tuple(dependency.service for dependency in spec.depends_on),
        exit_code=code,
    )


def output_read(
    containers: Iterable[Container], histories: Mapping[tuple[str, str], RestartHistory]
) -> dict[tuple[str, str], RestartHistory]:
    """Return the histories as they are once the output of each running container has been read."""
    read = {
        (running.service, running.hash): replace(
            histories.get((running.service, running.hash), NO_HISTORY), seen_unhealthy=running.start_key or running.id
        )
        for running in containers
        if running.up
    }
    return {**histories, **read}


@dataclass
class DrainingRouter:
    """Router that holds containers with requests, and drains for ``lasts`` seconds afterwards.

    Routes outlive the agent.
    """

    lasts: float = 1.2
    routed: frozenset[str] = frozenset()
    #: End of the drain (monotonic) by container.
    draining: dict[str, float] = field(default_factory=dict)

    def route(self, containers: Iterable[str], mono: float) -> None:
        desired_service = frozenset(containers)
        self.draining |= dict.fromkeys(self.routed - desired_service, mono + self.lasts)
        for container in desired_service:
            self.draining.pop(container, None)
        self.routed = desired_service

    def held(self, mono: float) -> Mapping[str, str]:
        waiting = {container: "3 requests are under way" for container, until in self.draining.items() if mono < until}
        return waiting | dict.fromkeys(self.routed, "serves")


@dataclass
class FakeEngine:
    """Engine in memory; carries out actions at once.

    Sets of spec hashes: ``sick`` never pass their probes, ``ends`` exit at once, ``done`` exit at once with code 0.
    ``became_unhealthy``: containers whose probes fail now. ``missing``: images to be pulled first. ``declaring``:
    services whose images declare a volume; ``volumes``: such volumes, by name.
    """

    containers: dict[str, Container] = field(default_factory=dict)
    network: Network | None = None
    memories: dict[tuple[str, str], RestartHistory] = field(default_factory=dict)
    sick: set[str] = field(default_factory=set)
    became_unhealthy: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    declaring: set[str] = field(default_factory=set)
    volumes: dict[str, ImageVolume] = field(default_factory=dict)
    mono: float = 1000.0
    made: int = 0
    history: list[Action] = field(default_factory=list)
    router: DrainingRouter | None = None
    #: Containers about which the engine does not answer, since when.
    hung: dict[str, float] = field(default_factory=dict)
    #: The engine answers every call, and nothing changes.
    is_deaf: bool = False
    repeats: RepeatedActions = field(default_factory=RepeatedActions)

    @property
    def now(self) -> Now:
        return Now(self.mono, 1_000_000.0 + self.mono)

    def add(self, *containers: Container) -> None:
        for container in containers:
            self.containers[container.id] = container

    def health(self) -> Mapping[str, Health]:
        """Return probe results: past the start deadline after 18 s for sick containers, healthy at once for others."""
        results = {}
        for container in self.containers.values():
            if container.up and container.hash in self.sick:
                late = self.mono - container.running_since >= 18.0
                results[container.id] = Health(
                    ProbeVerdict.UNHEALTHY if late else ProbeVerdict.CHECKING, late, "answered 503"
                )
            elif container.up and container.id in self.became_unhealthy:
                results[container.id] = Health(ProbeVerdict.UNHEALTHY, False, "answered 500", self.now)
            elif container.up:
                results[container.id] = Health(ProbeVerdict.HEALTHY, since=Now(container.running_since, 0.0))
        return results

    def observe(self) -> Observed:
        containers, volumes = tuple(self.containers.values()), tuple(self.volumes.values())
        return Observed(containers, self.network, self.health(), self.held(), self.hung, image_volumes=volumes)

    def held(self) -> Mapping[str, str]:
        return self.router.held(self.mono) if self.router is not None else {}

    def plan(self, goal: Desired) -> EnvironmentPlan:
        """Observe, plan, and note ready containers, as the agent does."""
        planned = plan(goal, self.observe(), self.memories, self.now)
        planned = self.repeats.hold_back(planned, self.observe(), self.now)
        for service in planned.services:
            if service.ready is not None:
                key = (service.service, service.ready.hash)
                memory = self.memories.get(key, NO_HISTORY).running(service.ready)
                self.memories[key] = memory.forget_lapses() if service.lapses_expired else memory
        self._route(planned)
        return planned

    def _route(self, planned: EnvironmentPlan) -> None:
        serving = [container for service in planned.services for container in service.serving]
        for container in serving:
            assert container.state is ContainerState.RUNNING
            assert container.hash not in self.sick, "it has never been healthy"
        if self.router is not None:
            self.router.route([container.id for container in serving], self.mono)

    def carry_out(self, action: Action, goal: Desired) -> None:
        """Carry out an action and note it in the restart history."""
        self.history.append(action)
        self.repeats.ended(action, self.observe(), self.now)
        if self.is_deaf:
            return
        assert action.container not in self.hung, "the engine does not answer about it"
        if action.kind is ActionKind.STOP and not (action.became_unhealthy or action.unhealthy):
            assert action.container not in self.held(), "requests go there"
        key = (action.service, action.hash)
        memory = self.memories.get(key, NO_HISTORY)
        container = self._find(action)
        match action.kind:
            case ActionKind.CREATE_NETWORK:
                self.made += 1
                self.network = Network(f"net-{self.made}", action.name, str(ENV))
            case ActionKind.REMOVE_NETWORK:
                assert not self.containers
                self.network = None
            case ActionKind.PULL:
                self.missing.discard(goal.services[action.service].image)
                self.memories[key] = memory.pulled()
            case ActionKind.CREATE:
                self._create(action, goal, memory)
            case ActionKind.REMOVE_VOLUME:
                assert all(action.name not in other.volumes.values() for other in self.containers.values()), "in use"
                del self.volumes[action.name]
            case _ if container is None:
                pass
            case ActionKind.START:
                self._start(container, goal, memory)
            case ActionKind.CONNECT:
                assert self.network is not None
                self._put(replace(container, networks={goal.network: NetworkAttachment(self.network.id, "172.18.0.9")}))
            case ActionKind.UPDATE:
                self._put(replace(container, settings=ContainerSettings()))
            case ActionKind.EXAMINE:
                code = 0 if container.hash in self.done else 1
                ended = replace(container, finished_at=container.finished_at or f"t{self.mono}", exit_code=code)
                self._put(ended)
                self.memories[key] = memory.ended(
                    ended, ContainerExit(code, False, ended.finished_at, 0.1), self.now, seed="x"
                )
            case ActionKind.READ_OUTPUT:
                self.memories[key] = memory.found_unhealthy(container, action.reason, self.now, ("cannot answer",))
            case ActionKind.STOP:
                self.memories[key] = change_before(action, container, goal, self.now)(memory)
                self._put(_down(container))
            case ActionKind.REMOVE:
                assert not container.up
                del self.containers[container.id]

    def step(self, goal: Desired) -> bool:
        """Carry out the first action of service service, as one pass of the agent does; False without an action."""
        planned = self.plan(goal)
        firsts = [planned.network[:1], *(service.actions[:1] for service in planned.services)]
        actions = [first[0] for first in firsts if first]
        for action in actions:
            self.carry_out(action, goal)
        return bool(actions)

    def _find(self, action: Action) -> Container | None:
        if action.container in self.containers:
            return self.containers[action.container]
        return next((container for container in self.containers.values() if container.name == action.name), None)

    def _create(self, action: Action, goal: Desired, memory: RestartHistory) -> None:
        spec = goal.services[action.service]
        if spec.image in self.missing:
            self.memories[(action.service, action.hash)] = memory.missing_image()
            return
        self.made += 1
        new = Container(
            f"c{self.made}", spec.name, str(ENV), action.service, spec.hash, goal.release, spec.image,
            ContainerState.CREATED,
            depends_on=tuple(container.service for container in spec.spec.depends_on),
            volumes=self._declared(action.service),
        )  # fmt: skip
        assert all(container.name != new.name for container in self.containers.values()), f"{new.name} is there already"
        self._put(new)

    def _declared(self, service: str) -> Mapping[str, str]:
        """Return the volumes that the image of a service declares, by path; they exist from now on."""
        if service not in self.declaring:
            return {}
        volume = image_volume(UID, ENV, service, "/data")
        self.volumes[volume.name] = volume
        return {volume.target: volume.name}

    def _start(self, container: Container, goal: Desired, memory: RestartHistory) -> None:
        assert self.network is not None
        if container.up:
            return
        up = replace(
            container,
            state=ContainerState.RUNNING,
            networks={goal.network: NetworkAttachment(self.network.id, "172.18.0.3")},
            running_since=self.mono,
            started_at=f"s{self.mono}",
            finished_at="",
            exit_code=None,
        )
        self._put(_down(up) if container.hash in self.ends | self.done else up)
        self.memories[(container.service, container.hash)] = memory.started(up)

    def _put(self, container: Container) -> None:
        self.containers[container.id] = container


def _down(container: Container) -> Container:
    return replace(container, state=ContainerState.EXITED, running_since=0.0, finished_at="", exit_code=None)


def action_kinds(actions: Iterable[Action]) -> list[str]:
    """Return ``service:kind`` of each action."""
    return [f"{action.service}:{action.kind}" if action.service else str(action.kind) for action in actions]
