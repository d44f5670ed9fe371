"""What to write for one environment: assignments, tombstones and the Rollout. Pure.

``plan(world, now, keys)`` is given all that is stored about an environment and answers with actions, each with its
reason. Every prefix of the actions, cut anywhere, followed by a new observation, leads to the same end. A value that
cannot be read is never taken for one that is not there. Nodes move in batches; a release that fails goes back to the
one that settled last. A release with a task goes to the task's node first, and to the others when the task has
succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.environment import PassInput, PassResult, assign_all
from devopsellence.controller.assign.node import withdraw
from devopsellence.controller.assign.secrets import secret_problems
from devopsellence.controller.ingress.node_parts import plan_parts
from devopsellence.controller.model import events
from devopsellence.controller.model.actions import EnvironmentPlan, KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, Moment
from devopsellence.controller.rollout.coverage import is_covered, why_unplaced
from devopsellence.controller.rollout.history import begin_rollout
from devopsellence.controller.rollout.node_progress import PlannedNode
from devopsellence.controller.rollout.status import advance_stopwatch, update_rollout
from devopsellence.controller.rollout.target import KnownReleases, RolloutTarget, known_releases, recorded_target
from devopsellence.controller.rollout.task import TaskDecision, decide_task
from devopsellence.controller.rollout.verdict import RolloutFacts, judge
from devopsellence.controller.scheduler.placement import place_services
from devopsellence.store.keys import Keys
from devopsellence.store.record import message_of, revision_of

# How many keys what is recorded is compared with, and how many nodes' assignments and statuses a verdict about the
# release; leaves room for the rest in a transaction.
_MAX_COMPARED: Final = 90
_MAX_BLAMED_COMPARED: Final = 10
# For a release that says nothing about it, which the command line does not write.
DEFAULT_DEADLINE_SECONDS: Final = 600.0
_EVENT_CODES: Final[dict[WriteKind, str]] = {
    WriteKind.WRITE_ASSIGNMENT: events.ASSIGNMENT_WRITTEN,
    WriteKind.WITHDRAW_ASSIGNMENT: events.ASSIGNMENT_WITHDRAWN,
    WriteKind.DELETE_ASSIGNMENT: events.ASSIGNMENT_DELETED,
}


def plan(world: EnvironmentSnapshot, now: Moment, keys: Keys) -> EnvironmentPlan:
    """What to write for the environment ``world`` is about.

    Deleted environment: tombstones, and in the end nothing is left. Unreadable environment: everything stays, and its
    Rollout says so. Otherwise: an assignment for each attached node, a tombstone for each other node that has one, and
    to those that serve its ingress what they need for it besides.
    """
    if world.environment is None:
        return _without_environment(world, now, keys)
    if world.environment.message is None:
        return _with_unreadable_environment(world, keys)
    return _with_environment(world, world.environment.message, now, keys)


def _without_environment(world: EnvironmentSnapshot, now: Moment, keys: Keys) -> EnvironmentPlan:
    rests_on = Precondition(keys.environment(world.ref), 0)
    actions = _some(withdraw(keys, world.ref, view, "the environment was deleted") for view in world.nodes)
    left = any(view.assignment is not None or view.status is not None for view in world.nodes)
    if world.rollout is not None and not left:
        change = KeyChange(keys.rollout(world.ref), world.rollout.mod_revision)
        actions.append(
            WriteAction(WriteKind.DELETE_ROLLOUT, "the environment was deleted and nothing is left of it", (change,))
        )
    actions += plan_parts(world, (), keys)
    return EnvironmentPlan(rests_on, actions, _tell(actions, now, release=0))


def _with_unreadable_environment(world: EnvironmentSnapshot, keys: Keys) -> EnvironmentPlan:
    record = world.environment
    if record is None or record.error is None:
        raise ValueError(f"{world.ref}: the environment can be read")
    rests_on = Precondition(record.key, record.mod_revision)
    stored = message_of(world.rollout)
    reason = f"{record.error}; the nodes keep what they have"
    if world.rollout is None or stored is None or stored.reason == reason:
        return EnvironmentPlan(rests_on)
    rollout = pb.Rollout()
    rollout.CopyFrom(stored)
    rollout.reason = reason
    change = KeyChange(world.rollout.key, world.rollout.mod_revision, rollout)
    return EnvironmentPlan(rests_on, (WriteAction(WriteKind.WRITE_ROLLOUT, reason, (change,)),))


def _with_environment(
    world: EnvironmentSnapshot, environment: pb.Environment, now: Moment, keys: Keys
) -> EnvironmentPlan:
    record = world.environment
    rests_on = Precondition(keys.environment(world.ref), revision_of(record))
    attached = frozenset(environment.nodes)
    number = environment.latest_release
    if number == 0:
        nothing = PassInput(world, RolloutTarget(0, 0), KnownReleases(None, None), None, {}, keys)
        assigning = assign_all(nothing, attached)
        actions = [*assigning.actions, *plan_parts(world, assigning.standings, keys)]
        return EnvironmentPlan(rests_on, actions, _tell(actions, now, release=0))
    before = begin_rollout(world, number, now)
    course = recorded_target(before)
    releases = known_releases(world, course, keys)
    decision = _decide(world, attached, releases.newest, before, keys)
    survey = _survey(world, attached, course, releases, decision.task, now, keys)
    watch = advance_stopwatch(survey.facts, world.stopwatch, now)
    outcome = judge(survey.facts, before, watch, now)
    blamed = outcome.blamed
    if outcome.course != course:
        # The rollout has turned round: what the nodes are to run is worked out again, from what is recorded with it.
        survey = _survey(world, attached, outcome.course, releases, outcome.task, now, keys)
        watch = advance_stopwatch(survey.facts, world.stopwatch, now)
        outcome = judge(survey.facts, before, watch, now)
    previous = message_of(world.rollout)
    folded = update_rollout(survey.facts, outcome, before, previous, watch, now)
    told = [*folded.events, *_tell(survey.assigning.actions, now, release=outcome.course.target)]
    actions = _in_order(world, folded.rollout, survey, [*_basis_of(blamed, world, keys), *decision.rests_on], keys)
    actions += plan_parts(world, survey.assigning.standings, keys)
    rechecks = [one for one in (folded.recheck_after, *survey.rechecks) if one is not None]
    return EnvironmentPlan(rests_on, actions, told, folded.stopwatch, min(rechecks, default=None))


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the nodes are to run on one course, and how they fare."""

    assigning: PassResult
    facts: RolloutFacts
    # When to look again because of where services are placed, in seconds.
    rechecks: Sequence[float | None]


def _survey(
    world: EnvironmentSnapshot,
    attached: frozenset[str],
    course: RolloutTarget,
    releases: KnownReleases,
    task: pb.TaskStatus | None,
    now: Moment,
    keys: Keys,
) -> _Survey:
    followed = (course.release, course.last_settled) if course.holds else (course.target,)
    found = [release for number in followed if (release := releases.of(number)) is not None]
    placings = {release.number: place_services(world, attached, release, now) for release in found}
    assigning = assign_all(PassInput(world, course, releases, task, placings, keys), attached)
    target = releases.of(course.target)
    shortages = placings[target.number].shortages if target is not None and target.number in placings else ()
    stored = message_of(world.rollout)
    known = stored.task.phase if stored is not None and stored.release == course.release else pb.TaskStatus.WAITING
    facts = RolloutFacts(
        ref=world.ref,
        course=course,
        unreadable=_why_not(releases, course),
        unplaced=why_unplaced(target, assigning.placed, assigning.standings) if target is not None else "",
        returns=releases.returns,
        why_no_return=releases.why_no_return,
        moved=assigning.moved or (task is not None and task.phase != known),
        judgements=assigning.judgements,
        covered=target is not None and is_covered(target, assigning.standings, assigning.judgements),
        deadline=_deadline(releases.newest),
        task=task,
        troubles=[*secret_problems(assigning.needed, frozenset(assigning.lacking), world.secrets), *shortages],
    )
    return _Survey(assigning, facts, [placing.recheck_after for placing in placings.values()])


def _decide(
    world: EnvironmentSnapshot, attached: frozenset[str], newest: pb.Release | None, before: pb.Rollout, keys: Keys
) -> TaskDecision:
    """The newest release's task; of one that cannot be read, as it was known."""
    if newest is None:
        return TaskDecision(before.task if before.HasField("task") else None)
    return decide_task(world, attached, newest, keys)


def _why_not(releases: KnownReleases, course: RolloutTarget) -> str:
    why = releases.why_not(course)
    return f"{why}; the nodes keep what they have until another release is deployed" if why else ""


def _in_order(
    world: EnvironmentSnapshot, rollout: pb.Rollout, survey: _Survey, decided_from: Sequence[Precondition], keys: Keys
) -> list[WriteAction]:
    """The Rollout, where it changes, before the assignments that follow from it; otherwise these rest on it."""
    key = keys.rollout(world.ref)
    revision = revision_of(world.rollout)
    actions = survey.assigning.actions
    if world.rollout is not None and rollout == world.rollout.message:
        # Who moves follows from what is recorded: an old copy of it must not decide that.
        return [_resting_on(Precondition(key, revision), one) for one in actions]
    nodes = _basis_of_nodes(survey.assigning.standings) if survey.facts.unplaced else ()
    change = KeyChange(key, revision, rollout)
    # Also so that the task's record is there before its node is told of it, and so that whoever follows the release
    # sees it begin, where the rest takes several transactions.
    rests_on = [*decided_from, *nodes][:_MAX_COMPARED]
    return [WriteAction(WriteKind.WRITE_ROLLOUT, rollout.reason, (change,), rests_on=rests_on), *actions]


def _resting_on(basis: Precondition, action: WriteAction) -> WriteAction:
    return replace(action, rests_on=[*action.rests_on, basis])


def _deadline(release: pb.Release | None) -> float:
    if release is None:
        return DEFAULT_DEADLINE_SECONDS
    duration = release.rollout.progress_deadline
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_DEADLINE_SECONDS


def _basis_of_nodes(standings: Sequence[PlannedNode]) -> list[Precondition]:
    """The Nodes that a verdict about placement was made from: it fails the rollout, so an old copy must not make it."""
    records = [standing.view.node for standing in standings]
    return [Precondition(record.key, record.mod_revision) for record in records if record is not None]


def _basis_of(blamed: Sequence[str], world: EnvironmentSnapshot, keys: Keys) -> list[Precondition]:
    """What the verdict that a release has failed was made from: a report that has been overtaken must not make it."""
    names = frozenset(blamed[:_MAX_BLAMED_COMPARED])
    basis = []
    for view in world.nodes:
        if view.name in names:
            assignment, status = view.assignment, view.status
            basis += [
                Precondition(keys.assignment(view.name, world.ref), revision_of(assignment)),
                Precondition(keys.status(view.name, world.ref), revision_of(status)),
            ]
    return basis


def _tell(actions: Sequence[WriteAction], now: Moment, *, release: int) -> list[pb.Event]:
    decisions = [
        (_EVENT_CODES[action.kind], action.reason, action.node) for action in actions if action.kind in _EVENT_CODES
    ]
    warn = [action.reason for action in actions if action.warning]
    return events.about_nodes(now.wall, decisions, release=release, warn=warn)


def _some(actions: Iterable[WriteAction | None]) -> list[WriteAction]:
    return [action for action in actions if action is not None]
