"""How the newest release fares: facts and outcome, folded into the environment's Rollout. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import Moment, Stopwatch
from devopsellence.controller.rollout.events import tell
from devopsellence.controller.rollout.summary import summarize
from devopsellence.controller.rollout.verdict import Facts, Outcome, is_paused

_RUNNING: Final = (pb.Rollout.PROGRESSING, pb.Rollout.ROLLING_BACK)


@dataclass(frozen=True, slots=True)
class Folded:
    """The Rollout as it should be stored, what to tell about it, and when to look again if nothing changes."""

    rollout: pb.Rollout
    events: Sequence[pb.Event] = ()
    # None: no deadline runs.
    stopwatch: Stopwatch | None = None
    recheck_after: float | None = None


def advance(facts: Facts, stopwatch: Stopwatch | None, now: Moment) -> Stopwatch:
    """The stopwatch, begun anew whenever there was progress or something else to do; it stands while the task runs."""
    target = facts.course.target
    arrived = [one for one in facts.judgements if one.release == target]
    settled = sum(one.services_settled + one.done for one in arrived)
    paused = is_paused(facts)
    if (
        stopwatch is None
        or (stopwatch.release, stopwatch.target) != (facts.course.release, target)
        or facts.moved
        or paused
        or stopwatch.paused
        or settled > stopwatch.settled
    ):
        return Stopwatch(facts.course.release, target, settled, now.monotonic, paused)
    return stopwatch


def fold(
    facts: Facts, outcome: Outcome, before: pb.Rollout, previous: pb.Rollout | None, watch: Stopwatch, now: Moment
) -> Folded:
    """The Rollout of the newest release; equal to ``previous``, the stored one, if nothing has changed.

    ``before``: as history.begin() has made it from the stored one.
    """
    rollout = pb.Rollout()
    rollout.CopyFrom(before)
    rollout.phase, rollout.reason = outcome.phase, outcome.reason
    rollout.target, rollout.halted = outcome.course.target, outcome.course.halted
    if outcome.task is None:
        rollout.ClearField("task")
    else:
        rollout.task.CopyFrom(outcome.task)
    summarize(rollout, facts.judgements, facts.course.target, now)
    if outcome.phase in _RUNNING:
        rollout.ClearField("finished_at")
    elif outcome.phase != before.phase:
        rollout.finished_at.FromDatetime(now.wall)
    told = tell(previous, rollout, now, is_back=outcome.is_back)
    if outcome.phase not in _RUNNING:
        return Folded(rollout, told)
    recheck_after = None if is_paused(facts) else max(0.0, watch.since + facts.deadline - now.monotonic)
    return Folded(rollout, told, watch, recheck_after)
