"""Schedule: a cluster and timed steps on the cluster. A pure value made from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

#: Seconds in which things happen; then all is mended, and only the last release counts.
CHAOS_SECONDS: Final = 5.0
CONTROLLERS: Final = 2
_LABELS: Final[tuple[tuple[str, ...], ...]] = (("web",), ("worker",), ("web", "worker"), ("web", "worker"))


class ReleaseQuality(Enum):
    """Quality of a release: good, or bad in some way."""

    GOOD = auto()
    #: Its web service never passes its check.
    SICK = auto()
    #: Its web service ends as soon as it is started.
    CRASHING = auto()
    #: Its web service's image is not to be had, and the progress deadline is short.
    STUCK = auto()
    #: Its release task fails.
    FAILING_TASK = auto()


@dataclass(frozen=True)
class ReleaseShape:
    """Properties of a release that differ between releases."""

    quality: ReleaseQuality = ReleaseQuality.GOOD
    task: bool = False
    #: Whether a worker of its own comes with it, besides the web service and the cache.
    jobs: bool = False
    #: Seconds until the web service passes its check.
    ready: float = 0.0
    max_parallel: str = "100%"
    goes_back: bool = True
    #: Whether requests from outside reach the web service.
    ingress: bool = False


class StepKind(Enum):
    """Kind of a step. ``seconds``: time until the step is undone, such as the restart of a killed process."""

    DEPLOY = auto()
    #: Two at the same moment.
    RACE = auto()
    RELABEL = auto()
    CORDON = auto()
    UNCORDON = auto()
    ATTACH = auto()
    DETACH = auto()
    KILL_AGENT = auto()
    #: SIGTERM: its heartbeat goes at once, and so the node is unreachable.
    STOP_AGENT = auto()
    #: Nothing gets through, connections stay.
    HOLD_AGENT = auto()
    #: Connections break, and for etcd its lease has run out.
    CUT_AGENT = auto()
    ENGINE_AWAY = auto()
    SLOW_ENGINE = auto()
    #: One container ends by itself.
    CRASH = auto()
    #: All containers end and the agent is killed.
    REBOOT = auto()
    #: The engine answers nothing about one container.
    HANG = auto()
    #: By hand, with Docker's own commands: one container.
    PAUSE = auto()
    RESTART_ALWAYS = auto()
    RENAME = auto()
    #: By hand: a copy of one container, with all its labels.
    COMMIT = auto()
    #: By hand: all containers, off their network; and the network removed.
    DISCONNECT = auto()
    REMOVE_NETWORK = auto()
    #: The engine's clock is set back by an hour, and forward again.
    CLOCK_STEP = auto()
    #: The disk of the agent's folder: not a block is free; or nothing can be written.
    DISK_FULL = auto()
    READ_ONLY = auto()
    #: Envoy accepts no changed file; reads changed files late; does not answer its router; its requests take long.
    ENVOY_REFUSES = auto()
    ENVOY_SLOW = auto()
    ENVOY_AWAY = auto()
    LONG_REQUESTS = auto()
    #: By hand: one key of a node's agent, or of the controllers about the node; or of the controllers.
    DELETE_NODE_KEY = auto()
    DELETE_CONTROLLER_KEY = auto()
    KILL_CONTROLLER = auto()
    STOP_CONTROLLER = auto()
    HOLD_CONTROLLER = auto()
    CUT_CONTROLLER = auto()
    PAUSE_ETCD = auto()
    RESTART_ETCD = auto()


class OwnKey(Enum):
    """Key that a program writes again if somebody deletes it."""

    HEARTBEAT = auto()
    STATUS = auto()
    ASSIGNMENT = auto()
    #: Part of a node's ingress.
    PEERS = auto()
    ROLLOUT = auto()
    #: The leader's.
    CANDIDATE = auto()


_OF_NODES: Final = (
    StepKind.KILL_AGENT,
    StepKind.STOP_AGENT,
    StepKind.HOLD_AGENT,
    StepKind.CUT_AGENT,
    StepKind.ENGINE_AWAY,
    StepKind.SLOW_ENGINE,
    StepKind.CRASH,
    StepKind.REBOOT,
    StepKind.HANG,
    StepKind.PAUSE,
    StepKind.RESTART_ALWAYS,
    StepKind.RENAME,
    StepKind.COMMIT,
    StepKind.DISCONNECT,
    StepKind.REMOVE_NETWORK,
    StepKind.CLOCK_STEP,
    StepKind.DELETE_NODE_KEY,
)
_OF_CONTROLLERS: Final = (
    StepKind.KILL_CONTROLLER,
    StepKind.STOP_CONTROLLER,
    StepKind.HOLD_CONTROLLER,
    StepKind.CUT_CONTROLLER,
    StepKind.DELETE_CONTROLLER_KEY,
)
#: Keys to delete, by the step that deletes one.
_KEYS: Final = {
    StepKind.DELETE_NODE_KEY: (OwnKey.HEARTBEAT, OwnKey.STATUS, OwnKey.ASSIGNMENT, OwnKey.PEERS),
    StepKind.DELETE_CONTROLLER_KEY: (OwnKey.ROLLOUT, OwnKey.CANDIDATE),
}
#: Steps without a duration.
_AT_ONCE: Final = frozenset({StepKind.CRASH, StepKind.RENAME, StepKind.COMMIT, *_KEYS})
_OF_OPERATORS: Final = (StepKind.RELABEL, StepKind.CORDON, StepKind.UNCORDON, StepKind.ATTACH, StepKind.DETACH)
#: What operators ask for, as opposed to what befalls.
OPERATOR_STEPS: Final = frozenset({StepKind.DEPLOY, StepKind.RACE, *_OF_OPERATORS})
_OF_ETCD: Final = (StepKind.PAUSE_ETCD, StepKind.RESTART_ETCD)
_OF_DISKS: Final = (StepKind.DISK_FULL, StepKind.READ_ONLY)
_OF_ENVOYS: Final = (StepKind.ENVOY_REFUSES, StepKind.ENVOY_SLOW, StepKind.ENVOY_AWAY, StepKind.LONG_REQUESTS)
#: What a node's agent depends on, besides its engine.
_BELOW_NODES: Final = (*_OF_DISKS, *_OF_ENVOYS)


def part_of(what: StepKind, target: str) -> str:
    """Return the part of the cluster that a step is about: a node's disk and Envoy are parts of their own."""
    if what in _OF_DISKS:
        return f"disk of {target}"
    return f"Envoy of {target}" if what in _OF_ENVOYS else target


@dataclass(frozen=True)
class Step:
    """Step ``at`` seconds after the beginning, on ``target`` (a node, or ``c0``)."""

    at: float
    what: StepKind
    target: str = ""
    seconds: float = 0.0
    labels: tuple[str, ...] = ()
    shapes: tuple[ReleaseShape, ...] = ()
    key: OwnKey | None = None

    @property
    def part(self) -> str:
        """The part of the cluster that is in this state until the step is undone."""
        return part_of(self.what, self.target)

    def __str__(self) -> str:
        parts = [f"{self.at:5.2f} {self.what.name.lower()}", self.target, " ".join(self.labels)]
        parts += [self.key.name.lower()] if self.key else []
        parts += [f"for {self.seconds:.2f} s"] if self.seconds else []
        return " ".join(filter(None, parts)) + "".join(f"\n        {shape}" for shape in self.shapes)


@dataclass(frozen=True)
class Schedule:
    """``labels`` of each node and the ``attached`` nodes at the beginning, then the steps."""

    seed: int
    labels: dict[str, tuple[str, ...]]
    attached: tuple[str, ...]
    steps: tuple[Step, ...] = field(repr=False)
    #: Whether steps stop etcd itself, which therefore must not be shared.
    own_etcd: bool = False

    def __str__(self) -> str:
        nodes = ", ".join(f"{name} ({' '.join(labels)})" for name, labels in self.labels.items())
        head = f"seed {self.seed}: {nodes}; attached: {' '.join(self.attached)}"
        return "\n  ".join([head, *(str(step) for step in self.steps)])


def schedule(seed: int) -> Schedule:
    """The schedule of ``seed``."""
    rng = random.Random(seed)
    names = [f"n{number}" for number in range(1, rng.randint(3, 6) + 1)]
    # The first one stays attached, with all labels: every service can run somewhere at any time.
    labels = {name: rng.choice(_LABELS) for name in names}
    labels[names[0]] = ("web", "worker")
    attached = (names[0], *(name for name in names[1:] if rng.random() < 0.8))
    own_etcd = seed % 10 == 0
    deploys = list(_deploys(rng))
    faults = _faults(rng, names, [deploy.at for deploy in deploys], own_etcd=own_etcd)
    steps = [*deploys, *faults, *_wishes(rng, names[1:])]
    return Schedule(seed, labels, attached, tuple(sorted(steps, key=lambda step: step.at)), own_etcd)


def _deploys(rng: random.Random) -> Iterator[Step]:
    """Return the deploys: a good release at once, and the last before the end, good or bad."""
    yield Step(0.0, StepKind.DEPLOY, shapes=(_shape(rng, bad=0.0),))
    for at in sorted(rng.uniform(0.6, CHAOS_SECONDS) for _ in range(rng.randint(1, 4))):
        race = rng.random() < 0.15
        shapes = tuple(_shape(rng, bad=0.4) for _ in range(2 if race else 1))
        yield Step(at, StepKind.RACE if race else StepKind.DEPLOY, shapes=shapes)


def _shape(rng: random.Random, *, bad: float) -> ReleaseShape:
    quality = (
        rng.choice([one for one in ReleaseQuality if one is not ReleaseQuality.GOOD])
        if rng.random() < bad
        else ReleaseQuality.GOOD
    )
    return ReleaseShape(
        quality,
        task=quality is ReleaseQuality.FAILING_TASK or rng.random() < 0.3,
        jobs=rng.random() < 0.4,
        ready=rng.choice([0.0, 0.0, 0.2, 0.6]),
        max_parallel=rng.choice(["1", "2", "50%", "100%"]),
        goes_back=rng.random() < 0.7,
        ingress=rng.random() < 0.8,
    )


def _faults(rng: random.Random, names: list[str], deploys: list[float], *, own_etcd: bool) -> Iterator[Step]:
    """Return the faults: one at a time for each part, several parts perhaps at once.

    A disk or an Envoy matters most during a deploy, so they fail shortly before one.
    """
    free_at: dict[str, float] = {}
    crashed: set[str] = set()
    for _ in range(rng.randint(4, 14)):
        pick = rng.random()
        if own_etcd and pick < 0.2:
            what, target = rng.choice(_OF_ETCD), "etcd"
        elif pick < 0.4:
            what, target = rng.choice(_OF_CONTROLLERS), f"c{rng.randrange(CONTROLLERS)}"
        elif pick < 0.6:
            what, target = rng.choice(_BELOW_NODES), rng.choice(names)
        else:
            what, target = rng.choice(_OF_NODES), rng.choice(names)
        if what is StepKind.CRASH and target in crashed:
            # Three times within ten seconds would rightly fail a good release.
            continue
        begin = rng.uniform(0.2, CHAOS_SECONDS)
        seconds = rng.uniform(0.1, 2.2) if what not in _AT_ONCE else 0.0
        if what in _BELOW_NODES:
            begin, seconds = max(0.2, rng.choice(deploys) - rng.uniform(0.0, 0.3)), rng.uniform(0.5, 3.0)
        at = max(begin, free_at.get(part_of(what, target), 0.0))
        key = rng.choice(_KEYS[what]) if what in _KEYS else None
        free_at[part_of(what, target)] = at + seconds + 0.05
        if at < CHAOS_SECONDS:
            crashed |= {target} if what in (StepKind.CRASH, StepKind.REBOOT) else set()
            yield Step(at, what, target, seconds, key=key)


def _wishes(rng: random.Random, names: list[str]) -> Iterator[Step]:
    for _ in range(rng.randint(0, 4)):
        what = rng.choice(_OF_OPERATORS)
        labels = rng.choice(_LABELS) if what is StepKind.RELABEL else ()
        yield Step(rng.uniform(0.3, CHAOS_SECONDS), what, rng.choice(names), labels=labels)
