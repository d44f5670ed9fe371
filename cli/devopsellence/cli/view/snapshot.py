"""What was read of one environment at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Heartbeat,
    Node,
    Release,
    Rollout,
)
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Problem:
    """A key that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """The records of one environment; None and missing entries were not there (unreadable ones are in ``problems``).

    ``nodes``, ``heartbeats`` and ``statuses`` are by node. ``heartbeats`` is None where nobody looked.
    ``controllers`` is how many controllers stand for election, None where nobody looked. ``stale`` says why what is
    shown may be old; "" when it is not. ``warnings`` are sentences about the cluster itself.
    """

    ref: EnvironmentRef
    environment: Environment | None = None
    release: Release | None = None
    rollout: Rollout | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)
    heartbeats: Mapping[str, Heartbeat] | None = None
    statuses: Mapping[str, AssignmentStatus] = field(default_factory=dict)
    controllers: int | None = None
    problems: tuple[Problem, ...] = ()
    stale: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The newest release; 0 before the first."""
        return self.environment.latest_release if self.environment else 0


class Outcome(Enum):
    """How a release's rollout stands."""

    WAITING = "waiting"
    PROGRESSING = "progressing"
    SETTLED = "settled"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Verdict:
    """``outcome`` with the reason that the controller gave, "" if it gave none."""

    outcome: Outcome
    reason: str = ""

    @property
    def final(self) -> bool:
        """Whether following it any longer makes no sense."""
        return self.outcome in (Outcome.SETTLED, Outcome.FAILED, Outcome.SUPERSEDED)


_OUTCOMES = {
    Rollout.PROGRESSING: Outcome.PROGRESSING,
    Rollout.SETTLED: Outcome.SETTLED,
    Rollout.FAILED: Outcome.FAILED,
    Rollout.SUPERSEDED: Outcome.SUPERSEDED,
}


def judge(snapshot: Snapshot, number: int) -> Verdict:
    """How the rollout of release ``number`` stands; WAITING while the controller has not begun with it."""
    rollout = snapshot.rollout
    superseded = Verdict(Outcome.SUPERSEDED, f"release {snapshot.number} was written after it")
    if rollout is None or rollout.release < number:
        return superseded if snapshot.number > number else Verdict(Outcome.WAITING)
    if rollout.release == number:
        verdict = Verdict(_OUTCOMES.get(rollout.phase, Outcome.WAITING), rollout.reason)
        return superseded if snapshot.number > number and not verdict.final else verdict
    for past in rollout.history:
        if past.release == number and past.phase in (Rollout.SETTLED, Rollout.FAILED):
            return Verdict(_OUTCOMES[past.phase], past.reason)
    return Verdict(Outcome.SUPERSEDED, f"release {rollout.release} was written after it")
