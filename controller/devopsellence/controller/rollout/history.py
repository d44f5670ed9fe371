"""Beginning of a rollout, and the history of earlier rollouts in it. Pure."""

from __future__ import annotations

from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.store.record import message_of

MAX_HISTORY: Final = 100
_Phase = pb.Rollout


def begin_rollout(snapshot: EnvironmentSnapshot, release: int, now: Now) -> pb.Rollout:
    """Return the stored Rollout, or a new Rollout if the stored one belongs to another release than ``release``.

    ``release`` is the number of the newest release. Fields unknown to an earlier version are filled in.
    """
    previous = message_of(snapshot.rollout)
    rollout = pb.Rollout()
    if previous is not None and previous.release == release:
        rollout.CopyFrom(previous)
        rollout.phase = rollout.phase or _Phase.PROGRESSING
    else:
        ref = snapshot.ref
        rollout.organization, rollout.project, rollout.environment = ref.organization, ref.project, ref.environment
        rollout.release = release
        rollout.phase = _Phase.PROGRESSING
        rollout.started_at.FromDatetime(now.utc)
        if previous is not None:
            rollout.history.extend(_history(previous, release, now))
            # The time since when a node is unreachable does not depend on releases.
            rollout.nodes.extend(previous.nodes)
            # Replicas stay where they are, release after release.
            rollout.replicas.extend(previous.replicas)
    rollout.target = rollout.target or release
    rollout.last_settled = snapshot.last_settled(release)
    return rollout


def _history(previous: pb.Rollout, release: int, now: Now) -> list[pb.RolloutOutcome]:
    """Return the outcomes of the releases before ``release``, newest first; skipped releases count as superseded."""
    skipped = range(release - 1, max(previous.release, release - 1 - MAX_HISTORY), -1)
    outcomes = [
        _superseded(number, f"release {release} was written before it was rolled out", now) for number in skipped
    ]
    if previous.phase == _Phase.PROGRESSING:
        reason = f"release {release} was written before it settled"
        outcomes.append(_superseded(previous.release, reason, now))
    elif previous.phase == _Phase.ROLLING_BACK:
        outcome = pb.RolloutOutcome(release=previous.release, phase=_Phase.FAILED, reason=previous.halted)
        outcome.finished_at.FromDatetime(now.utc)
        outcomes.append(outcome)
    elif previous.provisional and previous.first_failure:
        reason = f"release {release} was written within its first minute, after a failure: {previous.first_failure}"
        outcomes.append(_superseded(previous.release, reason, now))
    elif previous.release:
        outcome = pb.RolloutOutcome(release=previous.release, phase=previous.phase, reason=previous.reason)
        if previous.HasField("finished_at"):
            outcome.finished_at.CopyFrom(previous.finished_at)
        outcomes.append(outcome)
    outcomes.extend(outcome for outcome in previous.history if outcome.release not in (previous.release, release))
    return outcomes[:MAX_HISTORY]


def _superseded(release: int, reason: str, now: Now) -> pb.RolloutOutcome:
    outcome = pb.RolloutOutcome(release=release, phase=_Phase.SUPERSEDED, reason=reason)
    outcome.finished_at.FromDatetime(now.utc)
    return outcome
