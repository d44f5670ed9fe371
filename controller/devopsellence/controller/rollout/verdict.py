"""What has become of a rollout: its phase, its reason, and whether it turns round. Pure.

SETTLED is left only by another release, so that "the last release that settled" stays one; what goes wrong later is a
reason. A rollout that fails goes back or halts where an earlier release has settled. Otherwise there is nothing to
protect, and FAILED is left when all settles after all, or when what the nodes should run changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import Moment, Stopwatch
from devopsellence.controller.rollout.node_progress import Hold, Judgement
from devopsellence.controller.rollout.target import Course
from devopsellence.controller.rollout.task import ended_by_failure, sentence
from devopsellence.controller.rollout.task_stage import Stage, stage_of
from devopsellence.controller.rollout.turns import is_in_flight
from devopsellence.store.keys import EnvironmentRef

_NAMED: Final = 3
_Phase = pb.Rollout
_GRAVITY: Final[dict[int, int]] = {
    phase: position
    for position, phase in enumerate(
        (
            pb.NodeProgress.FAILED,
            pb.NodeProgress.ERROR,
            pb.NodeProgress.CONVERGING,
            pb.NodeProgress.PENDING,
            pb.NodeProgress.UNREACHABLE,
            pb.NodeProgress.WAITING,
            pb.NodeProgress.SETTLED,
        )
    )
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rollout is judged by."""

    ref: EnvironmentRef
    course: Course
    # Why the target cannot be read; empty if it can.
    unreadable: str
    # Why a service of the target runs nowhere; empty if each runs somewhere.
    unplaced: str
    # A newest release that fails is taken back, and the release that settled last can be read.
    returns: bool
    # Why it cannot be read where the newest would be taken back; empty otherwise.
    why_no_return: str
    # Whether this plan changes what a node should run.
    moved: bool
    # One for each attached node, sorted by name.
    judgements: Sequence[Judgement]
    # Whether each service of the target has settled on at least one node.
    covered: bool
    # Seconds without progress after which the rollout fails.
    deadline: float
    # The newest release's task as decided; None if it has none.
    task: pb.TaskStatus | None = None
    # What is wrong with secrets that the nodes need.
    troubles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rollout has come to."""

    phase: pb.Rollout.Phase.ValueType
    reason: str
    # Another one than the facts': what the nodes are to run has to be worked out anew.
    course: Course
    # Of the newest release; has failed with the rollout where it had not ended.
    task: pb.TaskStatus | None = None
    # The nodes that the verdict was made from, where it turns the rollout round.
    blamed: Sequence[str] = ()
    # All that answers runs the older target again.
    is_back: bool = False


def gravity(judgement: Judgement) -> int:
    """What to be shown first has the least."""
    return _GRAVITY.get(judgement.phase, len(_GRAVITY))


def weigh(facts: Facts, before: pb.Rollout, watch: Stopwatch, now: Moment) -> Outcome:
    """What becomes of the rollout that was recorded as ``before``."""
    if facts.course.going_back:
        return _going_back(facts, before, watch, now)
    if _has_settled(facts):
        reason = _join(facts.troubles, _why_unsettled(facts))
        return Outcome(_Phase.SETTLED, reason, replace(facts.course, halted=""), facts.task)
    if before.phase == _Phase.SETTLED:
        return Outcome(_Phase.SETTLED, _live(facts), facts.course, facts.task)
    if facts.unreadable:
        return Outcome(_Phase.FAILED, facts.unreadable, facts.course, facts.task)
    late = now.monotonic - watch.since >= facts.deadline and before.phase == _Phase.PROGRESSING
    failure = _failure(facts, late=late)
    if facts.course.last_settled and (facts.course.halted or failure.why):
        return _turned(facts, failure)
    if failure.why:
        return Outcome(_Phase.FAILED, failure.why, facts.course, facts.task)
    if facts.unplaced:
        return Outcome(_Phase.FAILED, facts.unplaced, facts.course, facts.task)
    # Also when it is the turn of nobody yet: what was in the way is gone.
    waits = any(one.hold is Hold.TURN for one in facts.judgements)
    if before.phase == _Phase.FAILED and not facts.moved and not waits:
        return Outcome(_Phase.FAILED, before.reason, facts.course, facts.task)
    if late:
        return Outcome(_Phase.FAILED, _too_late(facts), facts.course, facts.task)
    return Outcome(_Phase.PROGRESSING, _live(facts), facts.course, facts.task)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why the newest release has failed (empty: it has not), and the nodes that show it."""

    why: str = ""
    nodes: Sequence[str] = ()


def _failure(facts: Facts, *, late: bool) -> _Failure:
    """What speaks against the newest release: not what only keeps it from reaching a node."""
    task = facts.task
    if task is not None and task.phase == pb.TaskStatus.FAILED:
        return _Failure(sentence(task))
    given_up = [one for one in facts.judgements if one.given_up and one.waited_for]
    if given_up:
        why = _join(facts.troubles, _sentences([one.given_up for one in given_up]))
        return _Failure(why, [one.node for one in given_up])
    if late:
        in_flight = [one.node for one in facts.judgements if is_in_flight(one, facts.course.target)]
        if in_flight or (task is not None and task.node and stage_of(task) is Stage.PREPARING):
            return _Failure(_too_late(facts), in_flight)
    return _Failure()


def _turned(facts: Facts, failure: _Failure) -> Outcome:
    """The newest release has failed, and an earlier one has settled: back to that, or no further."""
    why = facts.course.halted or failure.why
    task = ended_by_failure(facts.task)
    if facts.returns:
        course = facts.course.back(why)
        return Outcome(_Phase.ROLLING_BACK, why, course, task, failure.nodes)
    reason = f"{why}; {facts.why_no_return}" if facts.why_no_return else why
    return Outcome(_Phase.FAILED, reason, facts.course.hold(why), task, failure.nodes)


def _going_back(facts: Facts, before: pb.Rollout, watch: Stopwatch, now: Moment) -> Outcome:
    """FAILED once everything that answers is back, or when that takes too long; it goes on nevertheless."""
    course = facts.course
    waited_for = [one for one in facts.judgements if one.waited_for]
    said = _live(facts)
    if waited_for and all(one.done for one in waited_for):
        reason = f"{course.halted}; release {course.target} runs again{f', but {said}' if said else ''}"
        return Outcome(_Phase.FAILED, reason, course, facts.task, is_back=True)
    on_its_way = before.target == course.target
    late = now.monotonic - watch.since >= facts.deadline
    if on_its_way and (late or before.phase == _Phase.FAILED):
        reason = f"{course.halted}; release {course.target} is to run again, but {said}"
        return Outcome(_Phase.FAILED, reason, course, facts.task)
    return Outcome(_Phase.ROLLING_BACK, f"{course.halted}; back to release {course.target}: {said}", course, facts.task)


def _has_settled(facts: Facts) -> bool:
    obstacle = facts.unreadable or facts.unplaced
    open_to_all = stage_of(facts.task) is Stage.OPEN
    settled = all(one.done for one in facts.judgements if one.waited_for)
    return not obstacle and open_to_all and facts.covered and settled


def is_paused(facts: Facts) -> bool:
    """Whether the release task is running, for all that is known: that takes as long as it takes."""
    task = facts.task
    if task is None or task.phase != pb.TaskStatus.RUNNING or facts.course.going_back:
        return False
    silent = (pb.NodeProgress.UNREACHABLE, pb.NodeProgress.ERROR)
    return all(one.phase not in silent for one in facts.judgements if one.node == task.node)


def _too_late(facts: Facts) -> str:
    return f"no progress within {facts.deadline:g} s (progress_deadline): {_live(facts)}"


def _live(facts: Facts) -> str:
    """Why it is not settled, as of now."""
    obstacle = facts.unreadable or facts.unplaced
    return _join([*([obstacle] if obstacle else []), *facts.troubles], _why_unsettled(facts))


def _why_unsettled(facts: Facts) -> str:
    """What the nodes that have not settled say, the worst first; empty if all have.

    While the release task has not ended, its node speaks for all; who only waits for others has nothing to say.
    """
    task = facts.task
    preparing = stage_of(task) is Stage.PREPARING and not facts.course.going_back
    if task is not None and not task.node and task.phase == pb.TaskStatus.WAITING and not facts.course.going_back:
        return sentence(task)
    saying = [one for one in facts.judgements if one.reason]
    if preparing and task is not None:
        saying = [one for one in saying if one.node == task.node]
    saying = [one for one in saying if one.hold is not Hold.TURN] or saying
    saying.sort(key=gravity)
    return _sentences([one.reason for one in saying])


def _sentences(reasons: Sequence[str]) -> str:
    shown = "; ".join(reasons[:_NAMED])
    return f"{shown}; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else shown


def _join(first: Sequence[str], rest: str) -> str:
    return "; ".join([*first, *([rest] if rest else [])])
