"""What was read of one environment at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Certificate,
    Environment,
    Heartbeat,
    Node,
    NodeProgress,
    Release,
    Rollout,
)
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class UnreadableKey:
    """A key that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """The records of one environment; None and missing entries were not there (unreadable ones are in ``problems``).

    ``nodes``, ``heartbeats`` and ``statuses`` are by node. ``heartbeats`` is None where nobody looked.
    ``release`` is the newest one, ``older_releases`` are earlier ones that the rollout names (:func:`named_by`), by number.
    ``controllers`` is how many controllers stand for election, None where nobody looked. ``stale`` says why what is
    shown may be old; "" when it is not. ``warnings`` are sentences about the cluster itself. ``certificates`` are by
    host.
    """

    ref: EnvironmentRef
    environment: Environment | None = None
    release: Release | None = None
    rollout: Rollout | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)
    heartbeats: Mapping[str, Heartbeat] | None = None
    statuses: Mapping[str, AssignmentStatus] = field(default_factory=dict)
    controllers: int | None = None
    problems: tuple[UnreadableKey, ...] = ()
    stale: str = ""
    older_releases: Mapping[int, Release] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    certificates: Mapping[str, Certificate] = field(default_factory=dict)

    @cached_property
    def number(self) -> int:
        """The newest release; 0 before the first."""
        return self.environment.latest_release if self.environment else 0

    @cached_property
    def current(self) -> Rollout | None:
        """The rollout, if it is the newest release's."""
        return self.rollout if self.rollout is not None and self.rollout.release == self.number else None

    @cached_property
    def target(self) -> int:
        """The release that the environment is to run: the newest, unless that was rolled back; 0 before the first."""
        return target_of(self.current) if self.current is not None else self.number

    def numbered(self, number: int) -> Release | None:
        """Release ``number``; None when it was not read or cannot be."""
        return self.release if number == self.number else self.older_releases.get(number)

    @cached_property
    def progress(self) -> Mapping[str, NodeProgress]:
        """What the controller says of the nodes, by name; of many, it lists only the worst hundred."""
        return {node.node: node for node in self.rollout.nodes} if self.rollout else {}


def target_of(rollout: Rollout) -> int:
    """The release that the rollout's environment is to run."""
    return rollout.target or rollout.release


def releases_named_by(rollout: Rollout | None) -> frozenset[int]:
    """The numbers of the releases that nodes are to run or may go back to."""
    if rollout is None:
        return frozenset()
    return frozenset({target_of(rollout), rollout.last_settled} - {0})


class RolloutState(Enum):
    """How a release's rollout stands."""

    WAITING = "waiting"
    PROGRESSING = "progressing"
    ROLLING_BACK = "rolling back"
    SETTLED = "settled"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class ReleaseVerdict:
    """``outcome`` with the reason that the controller gave, "" if it gave none.

    ``instead`` is the release that runs in place of a failed one that was (or is) rolled back; 0 if none does.
    """

    outcome: RolloutState
    reason: str = ""
    rolled_back_to: int = 0

    @property
    def final(self) -> bool:
        """Whether following it any longer makes no sense."""
        return self.outcome in (RolloutState.SETTLED, RolloutState.FAILED, RolloutState.SUPERSEDED)


_OUTCOMES = {
    Rollout.PROGRESSING: RolloutState.PROGRESSING,
    Rollout.ROLLING_BACK: RolloutState.ROLLING_BACK,
    Rollout.SETTLED: RolloutState.SETTLED,
    Rollout.FAILED: RolloutState.FAILED,
    Rollout.SUPERSEDED: RolloutState.SUPERSEDED,
}


def release_verdict(snapshot: Snapshot, number: int) -> ReleaseVerdict:
    """How the rollout of release ``number`` stands; WAITING while the controller has not begun with it."""
    rollout = snapshot.rollout
    superseded = ReleaseVerdict(RolloutState.SUPERSEDED, f"release {snapshot.number} was written after it")
    if rollout is None or rollout.release < number:
        return superseded if snapshot.number > number else ReleaseVerdict(RolloutState.WAITING)
    if rollout.release == number:
        return _of_rollout(rollout, superseded if snapshot.number > number else None)
    for past in rollout.history:
        if past.release == number and past.phase in (Rollout.SETTLED, Rollout.FAILED):
            return ReleaseVerdict(_OUTCOMES[past.phase], past.reason)
    return ReleaseVerdict(RolloutState.SUPERSEDED, f"release {rollout.release} was written after it")


def _of_rollout(rollout: Rollout, overtaken: ReleaseVerdict | None) -> ReleaseVerdict:
    outcome = _OUTCOMES.get(rollout.phase, RolloutState.WAITING)
    instead = target_of(rollout) if target_of(rollout) != rollout.release else 0
    if outcome is RolloutState.ROLLING_BACK:
        # It has failed already, whatever comes after it.
        reason = rollout.halted or rollout.reason
        return ReleaseVerdict(RolloutState.FAILED, reason) if overtaken else ReleaseVerdict(outcome, reason, instead)
    verdict = ReleaseVerdict(outcome, rollout.reason, instead)
    return overtaken if overtaken and not verdict.final else verdict
