"""An engine in memory, just enough to carry out plans, and short ways to write what the tests need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerExit,
    ContainerState,
    Health,
    Network,
    NetworkAttachment,
    Observed,
    ProbeVerdict,
)
from devopsellence.nodeagent.plan.actions import Action, ActionKind, EnvironmentPlan
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, RestartHistory
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
    """A service; another ``version`` is another spec. ``after``: on what its start depends."""
    made = workload_pb2.Service(
        name=name,
        kind=workload_pb2.Service.WEB,
        image=workload_pb2.Image(pinned=image),
        env={"VERSION": version},
    )
    if check:
        made.healthcheck.path, made.healthcheck.port = "/up", 3000
    if volume:
        made.volumes.add(source="data", target="/data")
    for other, condition in (after or {}).items():
        made.depends_on.add(service=other, condition=condition)
    return made


def want(*services: workload_pb2.Service, release: int = 1, removed: bool = False) -> Desired:
    """An assignment of these services; the ones that others wait for to complete say so, as a release does."""
    awaited = {each.service for made in services for each in made.depends_on if each.condition == COMPLETED}
    for made in services:
        made.completes = made.name in awaited
    assignment = stored_pb2.Assignment(
        node="n1", node_uid=UID, generation=release, release=release, services=services, removed=removed
    )
    return resolve_assignment(assignment, ENV, UID)


def wanted(made: workload_pb2.Service) -> DesiredService:
    return want(made).services[made.name]


def container(
    made: workload_pb2.Service,
    state: ContainerState = ContainerState.RUNNING,
    *,
    identity: str = "",
    since: float = 0.0,
    release: int = 1,
    network: str = "net-1",
    finished: str = "",
    code: int | None = None,
) -> Container:
    """A container of a service's spec."""
    spec = wanted(made)
    return Container(
        id=identity or f"{made.name}-{spec.hash[:6]}",
        name=spec.name,
        environment=str(ENV),
        service=made.name,
        hash=spec.hash,
        release=release,
        image=IMAGE,
        state=state,
        networks={
            want(made).network: NetworkAttachment(network, "172.18.0.2" if state is ContainerState.RUNNING else "")
        },
        running_since=since,
        started_at="2026-01-01T00:00:00Z" if state is not ContainerState.CREATED else "",
        finished_at=finished,
        depends_on=tuple(each.service for each in made.depends_on),
        exit_code=code,
    )


@dataclass
class Router:
    """Holds what requests go to, and afterwards, for so long as some are under way: ``lasts`` seconds. What it routes
    to outlives the agent."""

    lasts: float = 1.2
    routed: frozenset[str] = frozenset()
    #: By container, until when.
    draining: dict[str, float] = field(default_factory=dict)

    def want(self, containers: Iterable[str], mono: float) -> None:
        wanted = frozenset(containers)
        self.draining |= dict.fromkeys(self.routed - wanted, mono + self.lasts)
        for each in wanted:
            self.draining.pop(each, None)
        self.routed = wanted

    def held(self, mono: float) -> Mapping[str, str]:
        waiting = {each: "3 requests are under way" for each, until in self.draining.items() if mono < until}
        return waiting | dict.fromkeys(self.routed, "serves")


@dataclass
class Engine:
    """Carries out actions at once. ``sick``: hashes that never pass their check; ``became_unhealthy``: containers that do not
    pass it any more; ``ends``: hashes that end at once; ``done``: those that do with exit code 0; ``missing``: images
    that have to be pulled."""

    containers: dict[str, Container] = field(default_factory=dict)
    network: Network | None = None
    memories: dict[tuple[str, str], RestartHistory] = field(default_factory=dict)
    sick: set[str] = field(default_factory=set)
    became_unhealthy: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    mono: float = 1000.0
    made: int = 0
    history: list[Action] = field(default_factory=list)
    router: Router | None = None

    @property
    def now(self) -> Now:
        return Now(self.mono, 1_000_000.0 + self.mono)

    def add(self, *containers: Container) -> None:
        for each in containers:
            self.containers[each.id] = each

    def health(self) -> Mapping[str, Health]:
        """Sick ones are overdue after 18 s, the others pass at once."""
        found = {}
        for each in self.containers.values():
            if each.up and each.hash in self.sick:
                late = self.mono - each.running_since >= 18.0
                found[each.id] = Health(ProbeVerdict.UNHEALTHY if late else ProbeVerdict.CHECKING, late, "answered 503")
            elif each.up and each.id in self.became_unhealthy:
                found[each.id] = Health(ProbeVerdict.UNHEALTHY, False, "answered 500", self.now)
            elif each.up:
                found[each.id] = Health(ProbeVerdict.HEALTHY, since=Now(each.running_since, 0.0))
        return found

    def observe(self) -> Observed:
        return Observed(tuple(self.containers.values()), self.network, self.health(), self.held())

    def held(self) -> Mapping[str, str]:
        return self.router.held(self.mono) if self.router is not None else {}

    def plan(self, goal: Desired) -> EnvironmentPlan:
        """Observe and plan, and remember what has proved itself, as the agent does."""
        made = plan(goal, self.observe(), self.memories, self.now)
        for each in made.services:
            if each.ready is not None:
                key = (each.service, each.ready.hash)
                memory = self.memories.get(key, NO_HISTORY).running(each.ready)
                self.memories[key] = memory.forget_lapses() if each.lapses_expired else memory
        self._route(made)
        return made

    def _route(self, made: EnvironmentPlan) -> None:
        serving = [each for service in made.services for each in service.serving]
        for each in serving:
            assert each.state is ContainerState.RUNNING
            assert each.hash not in self.sick, "it has never been healthy"
        if self.router is not None:
            self.router.want([each.id for each in serving], self.mono)

    def carry_out(self, action: Action, goal: Desired) -> None:
        """One action, and what is remembered of it."""
        self.history.append(action)
        if action.kind is ActionKind.STOP and not (action.became_unhealthy or action.unhealthy):
            assert action.container not in self.held(), "requests go there"
        key = (action.service, action.hash)
        memory = self.memories.get(key, NO_HISTORY)
        found = self._find(action)
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
            case _ if found is None:
                pass
            case ActionKind.START:
                self._start(found, goal, memory)
            case ActionKind.CONNECT:
                assert self.network is not None
                self._put(replace(found, networks={goal.network: NetworkAttachment(self.network.id, "172.18.0.9")}))
            case ActionKind.EXAMINE:
                code = 0 if found.hash in self.done else 1
                ended = replace(found, finished_at=found.finished_at or f"t{self.mono}", exit_code=code)
                self._put(ended)
                self.memories[key] = memory.ended(
                    ended, ContainerExit(code, False, ended.finished_at, 0.1), self.now, seed="x"
                )
            case ActionKind.STOP:
                self.memories[key] = change_before(action, found, goal, self.now)(memory)
                self._put(_down(found))
            case ActionKind.REMOVE:
                assert not found.up
                del self.containers[found.id]

    def step(self, goal: Desired) -> bool:
        """What the agent does in one turn: the first action of each service. False when there was none."""
        made = self.plan(goal)
        firsts = [made.network[:1], *(each.actions[:1] for each in made.services)]
        actions = [first[0] for first in firsts if first]
        for action in actions:
            self.carry_out(action, goal)
        return bool(actions)

    def _find(self, action: Action) -> Container | None:
        if action.container in self.containers:
            return self.containers[action.container]
        return next((each for each in self.containers.values() if each.name == action.name), None)

    def _create(self, action: Action, goal: Desired, memory: RestartHistory) -> None:
        spec = goal.services[action.service]
        if spec.image in self.missing:
            self.memories[(action.service, action.hash)] = memory.missing_image()
            return
        self.made += 1
        new = Container(
            f"c{self.made}", spec.name, str(ENV), action.service, spec.hash, goal.release, spec.image, ContainerState.CREATED,
            depends_on=tuple(each.service for each in spec.spec.depends_on),
        )  # fmt: skip
        assert all(each.name != new.name for each in self.containers.values()), f"{new.name} is there already"
        self._put(new)

    def _start(self, found: Container, goal: Desired, memory: RestartHistory) -> None:
        assert self.network is not None
        if found.up:
            return
        up = replace(
            found,
            state=ContainerState.RUNNING,
            networks={goal.network: NetworkAttachment(self.network.id, "172.18.0.3")},
            running_since=self.mono,
            started_at=f"s{self.mono}",
            finished_at="",
            exit_code=None,
        )
        self._put(_down(up) if found.hash in self.ends | self.done else up)
        self.memories[(found.service, found.hash)] = memory.started(up)

    def _put(self, found: Container) -> None:
        self.containers[found.id] = found


def _down(found: Container) -> Container:
    return replace(found, state=ContainerState.EXITED, running_since=0.0, finished_at="", exit_code=None)


def kinds(actions: Iterable[Action]) -> list[str]:
    """``service:kind`` for each."""
    return [f"{action.service}:{action.kind}" if action.service else str(action.kind) for action in actions]
