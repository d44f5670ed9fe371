"""How the newest release fares: what the nodes report, folded into the environment's Rollout. Pure.

The phase is the outcome of the release's rollout: SETTLED is left only by another release, so that "the last release
that settled" stays one, and a service that crashes later shows as a reason and in its node's progress. FAILED is left
when all settles after all, or when what the nodes should run changes; not when it was the release task that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller import events
from devopsellence.controller.phases import Stage, stage_of
from devopsellence.controller.progress import Judgement
from devopsellence.controller.task import sentence
from devopsellence.controller.world import Moment, Stopwatch
from devopsellence.store.keys import EnvironmentRef

MAX_HISTORY: Final = 100
# For a release that says nothing about it, which the command line does not write.
DEFAULT_DEADLINE_SECONDS: Final = 600.0
_NAMED: Final = 3
_TASK_EVENTS: Final[dict[int, str]] = {
    pb.TaskStatus.RUNNING: events.RELEASE_TASK_STARTED,
    pb.TaskStatus.SUCCEEDED: events.RELEASE_TASK_SUCCEEDED,
    pb.TaskStatus.FAILED: events.RELEASE_TASK_FAILED,
}
_Phase = pb.Rollout
_GRAVITY: Final[dict[int, int]] = {
    phase: position
    for position, phase in enumerate(
        (pb.NodeProgress.FAILED, pb.NodeProgress.ERROR, pb.NodeProgress.CONVERGING, pb.NodeProgress.PENDING)
    )
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rollout is folded from."""

    ref: EnvironmentRef
    # The newest release's number.
    release: int
    # As stored; None if there is none or it cannot be read.
    previous: pb.Rollout | None
    # Why the newest release cannot be rolled out at all; empty if it can.
    unreadable: str
    # Why a service of it runs nowhere; empty if each runs somewhere.
    unplaced: str
    # Whether this plan changes what a node should run.
    moved: bool
    # One for each attached node, sorted by name.
    judgements: Sequence[Judgement]
    # Whether each service of the release has settled on at least one node.
    covered: bool
    # Seconds without progress after which the rollout fails.
    deadline: float
    # The release task as decided; None if the release has none.
    task: pb.TaskStatus | None = None
    # What is wrong with secrets that the nodes need.
    troubles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Folded:
    """The Rollout as it should be stored, what to tell about it, and when to look again if nothing changes."""

    rollout: pb.Rollout
    events: Sequence[pb.Event] = ()
    # None: no deadline runs.
    stopwatch: Stopwatch | None = None
    recheck_after: float | None = None


def nodes_to_move(behind: Sequence[str]) -> Sequence[str]:
    """Which of the nodes that are ``behind`` the newest release move to it now: all of them.

    The one place that decides how many nodes move at a time.
    """
    return behind


def fold(facts: Facts, stopwatch: Stopwatch | None, now: Moment) -> Folded:
    """The Rollout of the newest release; equal to the stored one if nothing has changed."""
    rollout = _begin(facts, now)
    begun = facts.previous is None or facts.previous.release != facts.release
    before = rollout.phase
    watch = _advance(facts, stopwatch, now)
    phase, reason = _outcome(facts, rollout, watch, now)
    rollout.reason = reason
    _record_task(rollout, facts.task)
    del rollout.nodes[:]
    rollout.nodes.extend(judgement.progress for judgement in facts.judgements)
    told = [_started(facts, now)] if begun else []
    told += _told_of_task(facts, now)
    if phase != before:
        rollout.phase = phase
        if phase == _Phase.PROGRESSING:
            rollout.ClearField("finished_at")
            told.append(_resumed(facts, now))
        else:
            rollout.finished_at.FromDatetime(now.wall)
            told.append(_ended(rollout, now))
    if phase != _Phase.PROGRESSING:
        return Folded(rollout, told)
    recheck_after = None if _is_paused(facts) else max(0.0, watch.since + facts.deadline - now.monotonic)
    return Folded(rollout, told, watch, recheck_after)


def _begin(facts: Facts, now: Moment) -> pb.Rollout:
    """The stored Rollout, or a fresh one if it is about another release."""
    rollout = pb.Rollout()
    if facts.previous is not None and facts.previous.release == facts.release:
        rollout.CopyFrom(facts.previous)
        rollout.phase = rollout.phase or _Phase.PROGRESSING
        return rollout
    ref = facts.ref
    rollout.organization, rollout.project, rollout.environment = ref.organization, ref.project, ref.environment
    rollout.release = facts.release
    rollout.phase = _Phase.PROGRESSING
    rollout.started_at.FromDatetime(now.wall)
    if facts.previous is not None:
        rollout.history.extend(_history(facts.previous, facts.release, now))
    return rollout


def _record_task(rollout: pb.Rollout, task: pb.TaskStatus | None) -> None:
    if task is None:
        rollout.ClearField("task")
    else:
        rollout.task.CopyFrom(task)


def _history(previous: pb.Rollout, release: int, now: Moment) -> list[pb.RolloutOutcome]:
    """How the releases before ``release`` ended, newest first; those never rolled out were superseded as well."""
    skipped = range(release - 1, max(previous.release, release - 1 - MAX_HISTORY), -1)
    outcomes = [
        _superseded(number, f"release {release} was written before it was rolled out", now) for number in skipped
    ]
    if previous.phase == _Phase.PROGRESSING:
        reason = f"release {release} was written before it settled"
        outcomes.append(_superseded(previous.release, reason, now))
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


def _advance(facts: Facts, stopwatch: Stopwatch | None, now: Moment) -> Stopwatch:
    """The stopwatch, begun anew whenever there was progress or something else to do; it stands while the task runs."""
    settled = sum(judgement.progress.services_settled for judgement in facts.judgements)
    anew = facts.moved or _is_paused(facts)
    if stopwatch is None or stopwatch.release != facts.release or anew or settled > stopwatch.settled:
        return Stopwatch(facts.release, settled, now.monotonic)
    return stopwatch


def _outcome(
    facts: Facts, rollout: pb.Rollout, watch: Stopwatch, now: Moment
) -> tuple[pb.Rollout.Phase.ValueType, str]:
    """Phase and reason, in order of precedence."""
    task = facts.task
    if task is not None and task.phase == pb.TaskStatus.FAILED and not facts.unreadable:
        return _Phase.FAILED, sentence(task)
    obstacle = facts.unreadable or facts.unplaced
    waited_for = [judgement for judgement in facts.judgements if judgement.waited_for]
    open_to_all = stage_of(task) is Stage.OPEN
    settled = all(one.progress.phase == pb.NodeProgress.SETTLED for one in waited_for)
    if not obstacle and open_to_all and facts.covered and settled:
        return _Phase.SETTLED, _join(facts.troubles, _why_unsettled(facts))
    live = _join([*([obstacle] if obstacle else []), *facts.troubles], _why_unsettled(facts))
    if rollout.phase == _Phase.SETTLED:
        return _Phase.SETTLED, live
    if obstacle:
        return _Phase.FAILED, obstacle
    given_up = [judgement.given_up for judgement in facts.judgements if judgement.given_up and judgement.waited_for]
    if given_up:
        return _Phase.FAILED, _join(facts.troubles, _sentences(given_up))
    if rollout.phase == _Phase.FAILED and not facts.moved:
        return _Phase.FAILED, rollout.reason
    if now.monotonic - watch.since >= facts.deadline:
        return _Phase.FAILED, f"no progress within {facts.deadline:g} s (progress_deadline): {live}"
    return _Phase.PROGRESSING, live


def _is_paused(facts: Facts) -> bool:
    """Whether the release task is running, for all that is known: that takes as long as it takes."""
    task = facts.task
    if task is None or task.phase != pb.TaskStatus.RUNNING:
        return False
    silent = (pb.NodeProgress.UNREACHABLE, pb.NodeProgress.ERROR)
    return all(one.progress.phase not in silent for one in facts.judgements if one.progress.node == task.node)


def _why_unsettled(facts: Facts) -> str:
    """What the nodes that have not settled at the newest release say, the worst first; empty if all have.

    While the release task has not ended, its node speaks for all.
    """
    task = facts.task
    if task is not None and not task.node and task.phase == pb.TaskStatus.WAITING:
        return sentence(task)
    saying = [one.progress for one in facts.judgements if one.progress.reason]
    if stage_of(task) is Stage.PREPARING and task is not None:
        saying = [progress for progress in saying if progress.node == task.node]
    saying.sort(key=lambda progress: _GRAVITY.get(progress.phase, len(_GRAVITY)))
    return _sentences([progress.reason for progress in saying])


def _sentences(reasons: Sequence[str]) -> str:
    shown = "; ".join(reasons[:_NAMED])
    return f"{shown}; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else shown


def _join(first: Sequence[str], rest: str) -> str:
    return "; ".join([*first, *([rest] if rest else [])])


def _started(facts: Facts, now: Moment) -> pb.Event:
    before = f" after release {facts.previous.release}" if facts.previous is not None and facts.previous.release else ""
    message = f"release {facts.release} is rolled out{before}"
    return events.event(now.wall, events.ROLLOUT_STARTED, message, release=facts.release)


def _resumed(facts: Facts, now: Moment) -> pb.Event:
    message = f"release {facts.release} is rolled out again, because what the nodes should run has changed"
    return events.event(now.wall, events.ROLLOUT_STARTED, message, release=facts.release)


def _told_of_task(facts: Facts, now: Moment) -> list[pb.Event]:
    task = facts.task
    known = facts.previous.task.phase if facts.previous is not None and facts.previous.release == facts.release else 0
    if task is None or task.phase == known or task.phase not in _TASK_EVENTS:
        return []
    severity = pb.Event.ERROR if task.phase == pb.TaskStatus.FAILED else pb.Event.INFO
    code = _TASK_EVENTS[task.phase]
    return [events.event(now.wall, code, sentence(task), severity=severity, node=task.node, release=facts.release)]


def _ended(rollout: pb.Rollout, now: Moment) -> pb.Event:
    if rollout.phase == _Phase.SETTLED:
        message = f"release {rollout.release} has settled"
        if rollout.reason:
            message += f", but {rollout.reason}"
        return events.event(now.wall, events.ROLLOUT_SETTLED, message, release=rollout.release)
    message = f"release {rollout.release} has failed: {rollout.reason}"
    return events.event(now.wall, events.ROLLOUT_FAILED, message, severity=pb.Event.ERROR, release=rollout.release)
