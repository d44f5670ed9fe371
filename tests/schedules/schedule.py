"""A schedule: the cluster it is about, and what happens to it when. A pure value made from its seed."""

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


class Quality(Enum):
    """How a release turns out."""

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
class Shape:
    """What is peculiar to a release."""

    quality: Quality = Quality.GOOD
    task: bool = False
    #: Whether a worker of its own comes with it, besides the web service and the cache.
    jobs: bool = False
    #: Seconds until the web service passes its check.
    ready: float = 0.0
    max_parallel: str = "100%"
    goes_back: bool = True


class What(Enum):
    """What happens. ``seconds`` is until it is undone: until a thing that was killed is started again, for example."""

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
    KILL_CONTROLLER = auto()
    STOP_CONTROLLER = auto()
    HOLD_CONTROLLER = auto()
    CUT_CONTROLLER = auto()
    PAUSE_ETCD = auto()
    RESTART_ETCD = auto()


_OF_NODES: Final = (
    What.KILL_AGENT,
    What.STOP_AGENT,
    What.HOLD_AGENT,
    What.CUT_AGENT,
    What.ENGINE_AWAY,
    What.SLOW_ENGINE,
    What.CRASH,
    What.REBOOT,
)
_OF_CONTROLLERS: Final = (What.KILL_CONTROLLER, What.STOP_CONTROLLER, What.HOLD_CONTROLLER, What.CUT_CONTROLLER)
_OF_OPERATORS: Final = (What.RELABEL, What.CORDON, What.UNCORDON, What.ATTACH, What.DETACH)
#: What operators ask for, as opposed to what befalls.
WISHES: Final = frozenset({What.DEPLOY, What.RACE, *_OF_OPERATORS})
_OF_ETCD: Final = (What.PAUSE_ETCD, What.RESTART_ETCD)


@dataclass(frozen=True)
class Step:
    """Something that happens ``at`` so many seconds after the beginning, to ``target`` (a node, or ``c0``)."""

    at: float
    what: What
    target: str = ""
    seconds: float = 0.0
    labels: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.at:5.2f} {self.what.name.lower()}", self.target, " ".join(self.labels)]
        parts += [f"for {self.seconds:.2f} s"] if self.seconds else []
        return " ".join(filter(None, parts)) + "".join(f"\n        {shape}" for shape in self.shapes)


@dataclass(frozen=True)
class Schedule:
    """``labels`` of each node at the beginning, which of them are ``attached``, and what happens then."""

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
    """The first release is good and comes at once; the last one comes before the end, good or bad."""
    yield Step(0.0, What.DEPLOY, shapes=(_shape(rng, bad=0.0),))
    for at in sorted(rng.uniform(0.6, CHAOS_SECONDS) for _ in range(rng.randint(1, 4))):
        race = rng.random() < 0.15
        shapes = tuple(_shape(rng, bad=0.4) for _ in range(2 if race else 1))
        yield Step(at, What.RACE if race else What.DEPLOY, shapes=shapes)


def _shape(rng: random.Random, *, bad: float) -> Shape:
    quality = rng.choice([one for one in Quality if one is not Quality.GOOD]) if rng.random() < bad else Quality.GOOD
    return Shape(
        quality,
        task=quality is Quality.FAILING_TASK or rng.random() < 0.3,
        jobs=rng.random() < 0.4,
        ready=rng.choice([0.0, 0.0, 0.2, 0.6]),
        max_parallel=rng.choice(["1", "2", "50%", "100%"]),
        goes_back=rng.random() < 0.7,
    )


def _faults(rng: random.Random, names: list[str], *, own_etcd: bool) -> Iterator[Step]:
    """One at a time for each target; several targets may be hit at once."""
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
        if what is What.CRASH and target in crashed:
            # Three times within ten seconds would rightly fail a good release.
            continue
        at = max(rng.uniform(0.2, CHAOS_SECONDS), free_at.get(target, 0.0))
        seconds = rng.uniform(0.1, 2.2) if what is not What.CRASH else 0.0
        free_at[target] = at + seconds + 0.05
        if at < CHAOS_SECONDS:
            crashed |= {target} if what in (What.CRASH, What.REBOOT) else set()
            yield Step(at, what, target, seconds)


def _wishes(rng: random.Random, names: list[str]) -> Iterator[Step]:
    for _ in range(rng.randint(0, 4)):
        what = rng.choice(_OF_OPERATORS)
        labels = rng.choice(_LABELS) if what is What.RELABEL else ()
        yield Step(rng.uniform(0.3, CHAOS_SECONDS), what, rng.choice(names), labels=labels)
