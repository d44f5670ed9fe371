"""Snapshot of an environment: its records at one time, and the state of its newest rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Final

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
from devopsellence.certificates.life import CertificateState, Life
from devopsellence.store.keys import EnvironmentRef

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OVERDUE: Final = (CertificateState.EXPIRES_SOON, CertificateState.EXPIRED)


@dataclass(frozen=True)
class UnreadableKey:
    """Key in etcd with an unreadable record, and the reason."""

    key: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """Records of one environment; absent records are None or left out, unreadable records are in ``problems``.

    ``nodes``, ``heartbeats`` and ``statuses`` are by node; ``heartbeats`` is None if heartbeats were not read.
    ``release`` is the newest release; ``older_releases`` are the earlier releases named by the rollout
    (:func:`releases_named_by`), by number. ``controllers`` is the number of running controllers, None if not read.
    ``stale`` is the reason why the snapshot may be out of date, "" if the snapshot is current. ``warnings`` are
    sentences about the cluster. ``certificates`` are by host.
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
        """Number of the newest release; 0 before the first."""
        return self.environment.latest_release if self.environment else 0

    @cached_property
    def current(self) -> Rollout | None:
        """Rollout of the newest release; None if the controller has not started the rollout."""
        return self.rollout if self.rollout is not None and self.rollout.release == self.number else None

    @cached_property
    def target(self) -> int:
        """Rollout target: the newest release, unless that was rolled back; 0 before the first."""
        return release_numbers(self.number, self.rollout).target

    def numbered(self, number: int) -> Release | None:
        """Return release ``number``; None if the release was not read or is unreadable."""
        return self.release if number == self.number else self.older_releases.get(number)

    @cached_property
    def progress(self) -> Mapping[str, NodeProgress]:
        """Progress of nodes as the controller reports it, by name; at most the hundred worst nodes."""
        return {node.node: node for node in self.rollout.nodes} if self.rollout else {}


def target_of(rollout: Rollout) -> int:
    """Return the release number of the rollout target."""
    return rollout.target or rollout.release


@dataclass(frozen=True)
class ReleaseNumbers:
    """Numbers of the releases of an environment: the newest, the one that runs, those in use; 0 before the first.

    ``target`` is the rollout target: the release that nodes are to run now, which is an older one than ``newest``
    after a rollback. ``in_use`` has both, and of a rollout that has not settled, or has settled provisionally, the
    release that the remaining nodes run and that the rollout can return to.
    """

    newest: int
    target: int
    in_use: frozenset[int]


def release_numbers(newest: int, rollout: Rollout | None) -> ReleaseNumbers:
    """Return the numbers of the releases that run, from the newest number and the rollout (None: no rollout). Pure."""
    if rollout is None:
        return ReleaseNumbers(newest, newest, frozenset({newest} - {0}))
    # The rollout of an earlier release: the controller has not started that of the newest yet.
    target = target_of(rollout) if rollout.release == newest else newest
    in_use = {newest, target_of(rollout)}
    if rollout.release != newest or rollout.phase != Rollout.SETTLED or rollout.provisional:
        in_use.add(rollout.last_settled)
    return ReleaseNumbers(newest, target, frozenset(in_use - {0}))


def releases_named_by(rollout: Rollout | None) -> frozenset[int]:
    """Return the numbers of the rollout target and of the last settled release."""
    if rollout is None:
        return frozenset()
    return frozenset({target_of(rollout), rollout.last_settled} - {0})


def settled_before(rollout: Rollout, release: int) -> int:
    """Return the last release that settled before ``release``; 0 if none is known. Pure."""
    outcomes = {past.release: past.phase for past in rollout.history} | {rollout.release: rollout.phase}
    settled = {number for number, phase in outcomes.items() if phase == Rollout.SETTLED} | {rollout.last_settled}
    return max((number for number in settled if number < release), default=0)


class RolloutState(Enum):
    """State of the rollout of a release."""

    WAITING = "waiting"
    PROGRESSING = "progressing"
    ROLLING_BACK = "rolling back"
    SETTLED = "settled"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class ReleaseVerdict:
    """State of a rollout with the controller's reason, "" if there is none.

    ``rolled_back_to`` is the release number to which a failed rollout was, or is being, rolled back; else 0.
    """

    outcome: RolloutState
    reason: str = ""
    rolled_back_to: int = 0

    @property
    def final(self) -> bool:
        """True if the rollout has ended."""
        return self.outcome in (RolloutState.SETTLED, RolloutState.FAILED, RolloutState.SUPERSEDED)


_OUTCOMES = {
    Rollout.PROGRESSING: RolloutState.PROGRESSING,
    Rollout.ROLLING_BACK: RolloutState.ROLLING_BACK,
    Rollout.SETTLED: RolloutState.SETTLED,
    Rollout.FAILED: RolloutState.FAILED,
    Rollout.SUPERSEDED: RolloutState.SUPERSEDED,
}


def release_verdict(snapshot: Snapshot, number: int) -> ReleaseVerdict:
    """Return the state of the rollout of release ``number``; WAITING until the controller starts the rollout."""
    rollout = snapshot.rollout
    superseded = ReleaseVerdict(RolloutState.SUPERSEDED, f"release {snapshot.number} is newer")
    if rollout is None or rollout.release < number:
        return superseded if snapshot.number > number else ReleaseVerdict(RolloutState.WAITING)
    if rollout.release == number:
        return _of_rollout(rollout, superseded if snapshot.number > number else None)
    for past in rollout.history:
        if past.release == number and past.phase in (Rollout.SETTLED, Rollout.FAILED):
            return ReleaseVerdict(_OUTCOMES[past.phase], past.reason)
    return ReleaseVerdict(RolloutState.SUPERSEDED, f"release {rollout.release} is newer")


def _of_rollout(rollout: Rollout, overtaken: ReleaseVerdict | None) -> ReleaseVerdict:
    outcome = _OUTCOMES.get(rollout.phase, RolloutState.WAITING)
    rolled_back_to = target_of(rollout) if target_of(rollout) != rollout.release else 0
    if outcome is RolloutState.ROLLING_BACK:
        # The release has failed already, whatever the result of the rollback.
        reason = rollout.halted or rollout.reason
        return (
            ReleaseVerdict(RolloutState.FAILED, reason)
            if overtaken
            else ReleaseVerdict(outcome, reason, rolled_back_to)
        )
    verdict = ReleaseVerdict(outcome, rollout.reason, rolled_back_to)
    return overtaken if overtaken and not verdict.final else verdict


def overdue_renewals(heartbeats: Mapping[str, Heartbeat], now: datetime) -> tuple[str, ...]:
    """Return a sentence for each node, by name, whose agent has not renewed its certificate in time. Pure."""
    return tuple(
        f"the agent of node {node} has not renewed its certificate, which ends on "
        f"{heartbeat.certificate_expires_at.ToDatetime():%Y-%m-%d}; devopsellence doctor shows how to fix it"
        for node, heartbeat in sorted(heartbeats.items())
        if heartbeat.HasField("certificate_expires_at")
        # Also what a hostile node reports, from which nothing can be subtracted.
        and Life.ending(max(heartbeat.certificate_expires_at.ToDatetime(UTC), _EPOCH)).state(now) in _OVERDUE
    )
