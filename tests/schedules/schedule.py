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
    #: By hand: all containers, off their network; and the network removed.
    DISCONNECT = auto()
    REMOVE_NETWORK = auto()
    #: The engine's clock is set back by an hour, and forward again.
    CLOCK_STEP = auto()
    KILL_CONTROLLER = auto()
    STOP_CONTROLLER = auto()
    HOLD_CONTROLLER = auto()
    CUT_CONTROLLER = auto()
    PAUSE_ETCD = auto()
    RESTART_ETCD = auto()


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
    StepKind.DISCONNECT,
    StepKind.REMOVE_NETWORK,
    StepKind.CLOCK_STEP,
)
_OF_CONTROLLERS: Final = (
    StepKind.KILL_CONTROLLER,
    StepKind.STOP_CONTROLLER,
    StepKind.HOLD_CONTROLLER,
    StepKind.CUT_CONTROLLER,
)
_OF_OPERATORS: Final = (StepKind.RELABEL, StepKind.CORDON, StepKind.UNCORDON, StepKind.ATTACH, StepKind.DETACH)
#: What operators ask for, as opposed to what befalls.
OPERATOR_STEPS: Final = frozenset({StepKind.DEPLOY, StepKind.RACE, *_OF_OPERATORS})
_OF_ETCD: Final = (StepKind.PAUSE_ETCD, StepKind.RESTART_ETCD)


@dataclass(frozen=True)
class Step:
    """Step ``at`` seconds after the beginning, on ``target`` (a node, or ``c0``)."""

    at: float
    what: StepKind
    target: str = ""
    seconds: float = 0.0
    labels: tuple[str, ...] = ()
    shapes: tuple[ReleaseShape, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.at:5.2f} {self.what.name.lower()}", self.target, " ".join(self.labels)]
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
    steps = [*_deploys(rng), *_faults(rng, names, own_etcd=own_etcd), *_wishes(rng, names[1:])]
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
    )


def _faults(rng: random.Random, names: list[str], *, own_etcd: bool) -> Iterator[Step]:
    """Return the faults: one at a time for each target, several targets perhaps at once."""
    free_at: dict[str, float] = {}
    crashed: set[str] = set()
    for _ in range(rng.randint(4, 12)):
        pick = rng.random()
        if own_etcd and pick < 0.2:
            what, target = rng.choice(_OF_ETCD), "etcd"
        elif pick < 0.45:
            what, target = rng.choice(_OF_CONTROLLERS), f"c{rng.randrange(CONTROLLERS)}"
        else:
            what, target = rng.choice(_OF_NODES), rng.choice(names)
        if what is StepKind.CRASH and target in crashed:
            # Three times within ten seconds would rightly fail a good release.
            continue
        at = max(rng.uniform(0.2, CHAOS_SECONDS), free_at.get(target, 0.0))
        seconds = rng.uniform(0.1, 2.2) if what is not StepKind.CRASH else 0.0
        free_at[target] = at + seconds + 0.05
        if at < CHAOS_SECONDS:
            crashed |= {target} if what in (StepKind.CRASH, StepKind.REBOOT) else set()
            yield Step(at, what, target, seconds)


def _wishes(rng: random.Random, names: list[str]) -> Iterator[Step]:
    for _ in range(rng.randint(0, 4)):
        what = rng.choice(_OF_OPERATORS)
        labels = rng.choice(_LABELS) if what is StepKind.RELABEL else ()
        yield Step(rng.uniform(0.3, CHAOS_SECONDS), what, rng.choice(names), labels=labels)
