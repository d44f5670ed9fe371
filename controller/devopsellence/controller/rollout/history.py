"""How a rollout begins, and what is kept of those before it. Pure."""

from __future__ import annotations

from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, Moment
from devopsellence.controller.rollout.target import last_settled
from devopsellence.store.record import message_of

MAX_HISTORY: Final = 100
_Phase = pb.Rollout


def begin_rollout(world: EnvironmentSnapshot, release: int, now: Moment) -> pb.Rollout:
    """The stored Rollout, or a fresh one if it is about another release than ``release``, the newest.

    What an earlier version did not record is filled in.
    """
    previous = message_of(world.rollout)
    rollout = pb.Rollout()
    if previous is not None and previous.release == release:
        rollout.CopyFrom(previous)
        rollout.phase = rollout.phase or _Phase.PROGRESSING
    else:
        ref = world.ref
        rollout.organization, rollout.project, rollout.environment = ref.organization, ref.project, ref.environment
        rollout.release = release
        rollout.phase = _Phase.PROGRESSING
        rollout.started_at.FromDatetime(now.wall)
        if previous is not None:
            rollout.history.extend(_history(previous, release, now))
            # Since when a node is unreachable does not depend on releases.
            rollout.nodes.extend(previous.nodes)
    rollout.target = rollout.target or release
    rollout.last_settled = last_settled(world, release)
    return rollout


def _history(previous: pb.Rollout, release: int, now: Moment) -> list[pb.RolloutOutcome]:
    """How the releases before ``release`` ended, newest first; those never rolled out were superseded as well."""
    skipped = range(release - 1, max(previous.release, release - 1 - MAX_HISTORY), -1)
    outcomes = [
        _superseded(number, f"release {release} was written before it was rolled out", now) for number in skipped
    ]
    if previous.phase == _Phase.PROGRESSING:
        reason = f"release {release} was written before it settled"
        outcomes.append(_superseded(previous.release, reason, now))
    elif previous.phase == _Phase.ROLLING_BACK:
        outcome = pb.RolloutOutcome(release=previous.release, phase=_Phase.FAILED, reason=previous.halted)
        outcome.finished_at.FromDatetime(now.wall)
        outcomes.append(outcome)
    elif previous.release:
        outcome = pb.RolloutOutcome(release=previous.release, phase=previous.phase, reason=previous.reason)
        if previous.HasField("finished_at"):
            outcome.finished_at.CopyFrom(previous.finished_at)
        outcomes.append(outcome)
    outcomes.extend(outcome for outcome in previous.history if outcome.release not in (previous.release, release))
    return outcomes[:MAX_HISTORY]


def _superseded(release: int, reason: str, now: Moment) -> pb.RolloutOutcome:
    outcome = pb.RolloutOutcome(release=release, phase=_Phase.SUPERSEDED, reason=reason)
    outcome.finished_at.FromDatetime(now.wall)
    return outcome
