"""Verdict on a rollout: phase, reason, rollback or halt. Pure.

SETTLED is provisional until the services of the release have lasted for a minute: one that ends again and again before
fails the release after all. From then on only another release ends SETTLED, so the last settled release stays settled;
later problems become the reason. A failed rollout rolls back or halts if an earlier release has settled. Otherwise
there is nothing to protect, and FAILED ends when all nodes settle after all, or when the assignments change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.model.snapshot import ProgressStopwatch
from devopsellence.controller.rollout.batch import is_in_flight
from devopsellence.controller.rollout.node_progress import Hold, NodeProgress
from devopsellence.controller.rollout.target import RolloutTarget
from devopsellence.controller.rollout.task import describe_task, ended_by_failure
from devopsellence.controller.rollout.task_stage import TaskStage, stage_of
from devopsellence.controller.rollout.trial import ReleaseTrial
from devopsellence.store.keys import EnvironmentRef

_NAMED: Final = 3
_Phase = pb.Rollout
_SEVERITY: Final[dict[int, int]] = {
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
class RolloutFacts:
    """Facts for the verdict on a rollout."""

    ref: EnvironmentRef
    target: RolloutTarget
    #: Why the target release cannot be read; empty if it can be read.
    unreadable: str
    #: Why a service of the target release runs nowhere; empty if every service has a node.
    unplaced: str
    #: A failure of the newest release leads to a rollback, and the last settled release can be read.
    can_roll_back: bool
    #: Why the last settled release cannot be read although the policy asks for a rollback; empty otherwise.
    rollback_problem: str
    #: This plan changes the assignment of a node.
    moved: bool
    #: Progress of the attached nodes, sorted by name.
    nodes: Sequence[NodeProgress]
    #: Each service of the target release has settled on at least one node.
    covered: bool
    #: Seconds without progress after which the rollout fails.
    deadline: float
    #: Release task of the newest release as decided; None without a task.
    task: pb.TaskStatus | None = None
    #: Problems with secrets and placement, in sentences.
    problems: Sequence[str] = ()
    #: First minute of the services of the target release.
    trial: ReleaseTrial = field(default_factory=ReleaseTrial)
    #: Why the assignment of a node is too large for etcd; empty if all can be written.
    oversized: str = ""
    #: Choice of nodes for the replicas of the target release; None: unknown, so the recorded choice stays.
    choices: Sequence[pb.ReplicaNodes] | None = None


@dataclass(frozen=True, slots=True)
class RolloutVerdict:
    """Verdict on a rollout."""

    phase: pb.Rollout.Phase.ValueType
    reason: str
    #: If different from the target of the facts, the assignments have to be worked out again.
    target: RolloutTarget
    #: Release task of the newest release; failed with the rollout if it had not ended.
    task: pb.TaskStatus | None = None
    #: Names of the nodes that caused a rollback or halt.
    blamed: Sequence[str] = ()
    #: Services that made the newest release fail; empty unless it fails with this verdict.
    failures: Sequence[pb.ServiceFailure] = ()
    #: All reachable nodes run the older release again.
    is_rolled_back: bool = False
    #: SETTLED for now: not all services have lasted. With the first failure of one meanwhile, a sentence; empty: none.
    provisional: bool = False
    first_failure: str = ""


def severity_rank(node: NodeProgress) -> int:
    """Return the rank of a node in lists; the most severe phase has the lowest."""
    return _SEVERITY.get(node.phase, len(_SEVERITY))


def judge(facts: RolloutFacts, before: pb.Rollout, stopwatch: ProgressStopwatch, now: Now) -> RolloutVerdict:
    """Return the verdict on the rollout recorded as ``before``."""
    if facts.target.rolls_back:
        return _rolling_back(facts, before, stopwatch, now)
    if before.phase == _Phase.SETTLED and before.provisional and facts.trial.given_up:
        return _failed_after_all(facts)
    if _has_settled(facts):
        reason = _join(facts.problems, _why_unsettled(facts))
        return _settled(facts, before, reason, replace(facts.target, halted=""))
    if before.phase == _Phase.SETTLED:
        return _settled(facts, before, _live(facts), facts.target)
    if facts.unreadable:
        return RolloutVerdict(_Phase.FAILED, facts.unreadable, facts.target, facts.task)
    late = now.mono - stopwatch.since >= facts.deadline and before.phase == _Phase.PROGRESSING
    failure = _failure(facts, late=late)
    if facts.target.last_settled and (facts.target.halted or failure.why):
        return _rolled_back_or_halted(facts, failure)
    if failure.why:
        return RolloutVerdict(_Phase.FAILED, failure.why, facts.target, facts.task, failures=failure.services)
    if facts.unplaced:
        return RolloutVerdict(_Phase.FAILED, facts.unplaced, facts.target, facts.task)
    # Also while every node waits for its batch: the problem is gone.
    waits = any(node.hold is Hold.BATCH for node in facts.nodes)
    if before.phase == _Phase.FAILED and not facts.moved and not waits:
        return RolloutVerdict(_Phase.FAILED, before.reason, facts.target, facts.task)
    if late:
        failures = _failures(facts.nodes)
        return RolloutVerdict(_Phase.FAILED, _too_late(facts), facts.target, facts.task, failures=failures)
    return RolloutVerdict(_Phase.PROGRESSING, _live(facts), facts.target, facts.task)


def _settled(facts: RolloutFacts, before: pb.Rollout, reason: str, target: RolloutTarget) -> RolloutVerdict:
    """Return SETTLED, provisional if the rollout settles now or was so before, and a service has yet to last."""
    on_trial = before.phase != _Phase.SETTLED or before.provisional
    provisional = on_trial and not facts.trial.lasted
    first_failure = (before.first_failure or facts.trial.first_failure) if provisional else ""
    return RolloutVerdict(
        _Phase.SETTLED, reason, target, facts.task, provisional=provisional, first_failure=first_failure
    )


def _failed_after_all(facts: RolloutFacts) -> RolloutVerdict:
    """Return the verdict on a release that had settled, and whose service has ended again and again since."""
    why = f"it had settled, but {_sentences([sentence for _, sentence in facts.trial.given_up])}"
    names = [name for name, _ in facts.trial.given_up]
    failure = _Failure(why, names, _failures([node for node in facts.nodes if node.name in names]))
    if facts.target.last_settled:
        return _rolled_back_or_halted(facts, failure)
    return RolloutVerdict(_Phase.FAILED, why, facts.target, facts.task, failure.nodes, failure.services)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Reason for the failure of the newest release (empty: no failure), the names of the nodes to blame, and the
    services that failed there."""

    why: str = ""
    nodes: Sequence[str] = ()
    services: Sequence[pb.ServiceFailure] = ()


def _failure(facts: RolloutFacts, *, late: bool) -> _Failure:
    """Return the failure of the newest release; an unreachable or excluded node is none."""
    task = facts.task
    if task is not None and task.phase == pb.TaskStatus.FAILED:
        return _Failure(describe_task(task))
    if facts.oversized:
        # No attempt can ever succeed.
        return _Failure(facts.oversized)
    given_up = [node for node in facts.nodes if node.given_up and node.waited_for]
    if given_up:
        why = _join(facts.problems, _sentences([node.given_up for node in given_up]))
        return _Failure(why, [node.name for node in given_up], _failures(given_up))
    if late:
        in_flight = [node for node in _in_flight(facts) if not node.waits_for_older]
        if in_flight or (task is not None and task.node and stage_of(task) is TaskStage.PREPARING):
            return _Failure(_too_late(facts), [node.name for node in in_flight], _failures(in_flight))
    return _Failure()


def _failures(nodes: Sequence[NodeProgress]) -> list[pb.ServiceFailure]:
    """Return the failures of services, those with output first; equal output of one service once."""
    failures = [node.failure for node in nodes if node.failure is not None]
    failures.sort(key=lambda failure: not failure.log_lines)
    distinct = {(failure.service, failure.reason, tuple(failure.log_lines)): failure for failure in reversed(failures)}
    return list(reversed(distinct.values()))[:_NAMED]


def _rolled_back_or_halted(facts: RolloutFacts, failure: _Failure) -> RolloutVerdict:
    """Return the verdict on a failed release after an earlier settled release: roll back or halt."""
    why = facts.target.halted or failure.why
    task = ended_by_failure(facts.task)
    if facts.can_roll_back:
        target = facts.target.rolled_back(why)
        return RolloutVerdict(_Phase.ROLLING_BACK, why, target, task, failure.nodes, failure.services)
    reason = f"{why}; {facts.rollback_problem}" if facts.rollback_problem else why
    return RolloutVerdict(_Phase.FAILED, reason, facts.target.halt(why), task, failure.nodes, failure.services)


def _rolling_back(facts: RolloutFacts, before: pb.Rollout, stopwatch: ProgressStopwatch, now: Now) -> RolloutVerdict:
    """Return FAILED once all reachable nodes are back, once the others have given up, or after the deadline; the
    rollback goes on even then."""
    target = facts.target
    waited_for = [node for node in facts.nodes if node.waited_for]
    live = _live(facts)
    if waited_for and all(node.done for node in waited_for):
        reason = f"{target.halted}; release {target.release} runs again{f', but {live}' if live else ''}"
        return RolloutVerdict(_Phase.FAILED, reason, target, facts.task, is_rolled_back=True)
    on_its_way = before.target == target.release
    late = now.mono - stopwatch.since >= facts.deadline
    given_up = bool(waited_for) and all(node.done or node.given_up for node in waited_for)
    if on_its_way and (late or given_up or before.phase == _Phase.FAILED):
        but = f"release {target.release} is to run again, but {live}"
        if live == target.halted:
            but = f"release {target.release} cannot run again for the same reason"
        reason = f"{target.halted}; {but}"
        return RolloutVerdict(_Phase.FAILED, reason, target, facts.task)
    return RolloutVerdict(
        _Phase.ROLLING_BACK, f"{target.halted}; back to release {target.release}: {live}", target, facts.task
    )


def _has_settled(facts: RolloutFacts) -> bool:
    problem = facts.unreadable or facts.unplaced
    open_to_all = stage_of(facts.task) is TaskStage.OPEN
    settled = all(node.done for node in facts.nodes if node.waited_for)
    return not problem and open_to_all and facts.covered and settled


def is_paused(facts: RolloutFacts) -> bool:
    """Return whether the progress deadline stands still: it limits what the new release itself waits for.

    A running release task has no deadline here. An older container has limits of its own: the drain timeout for its
    requests, and the stop grace period that it was created with.
    """
    in_flight = _in_flight(facts)
    return _task_runs(facts) or (bool(in_flight) and all(node.waits_for_older for node in in_flight))


def _in_flight(facts: RolloutFacts) -> list[NodeProgress]:
    return [node for node in facts.nodes if is_in_flight(node, facts.target.release)]


def _task_runs(facts: RolloutFacts) -> bool:
    """Return whether the release task is running as far as is known."""
    task = facts.task
    if task is None or task.phase != pb.TaskStatus.RUNNING or facts.target.rolls_back:
        return False
    unreachable = (pb.NodeProgress.UNREACHABLE, pb.NodeProgress.ERROR)
    return all(node.phase not in unreachable for node in facts.nodes if node.name == task.node)


def _too_late(facts: RolloutFacts) -> str:
    return f"no progress within {facts.deadline:g} s (progress_deadline): {_live(facts)}"


def _live(facts: RolloutFacts) -> str:
    """Return why the rollout has not settled, as of now."""
    problem = facts.unreadable or facts.unplaced
    return _join([*([problem] if problem else []), *facts.problems], _why_unsettled(facts))


def _why_unsettled(facts: RolloutFacts) -> str:
    """Return the reasons of the unsettled nodes, the most severe first; empty if all have settled.

    Until the release task has ended, only the reason of its node counts. Nodes that wait for their batch are left out
    if there are others.
    """
    task = facts.task
    preparing = stage_of(task) is TaskStage.PREPARING and not facts.target.rolls_back
    if task is not None and not task.node and task.phase == pb.TaskStatus.WAITING and not facts.target.rolls_back:
        return describe_task(task)
    reporting = [node for node in facts.nodes if node.reason]
    if preparing and task is not None:
        reporting = [node for node in reporting if node.name == task.node]
    reporting = [node for node in reporting if node.hold is not Hold.BATCH] or reporting
    reporting.sort(key=severity_rank)
    return _sentences([node.reason for node in reporting])


def _sentences(reasons: Sequence[str]) -> str:
    shown = "; ".join(reasons[:_NAMED])
    return f"{shown}; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else shown


def _join(first: Sequence[str], rest: str) -> str:
    return "; ".join([*first, *([rest] if rest else [])])
