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
from devopsellence.controller.assign.environment import Assigning, Brief, assign_all
from devopsellence.controller.assign.node import withdraw
from devopsellence.controller.assign.secrets import problems
from devopsellence.controller.ingress.node_parts import distribute
from devopsellence.controller.model import events
from devopsellence.controller.model.actions import Action, Basis, Change, Kind, Plan
from devopsellence.controller.model.snapshot import Moment, World
from devopsellence.controller.rollout.coverage import is_covered, why_unplaced
from devopsellence.controller.rollout.history import begin
from devopsellence.controller.rollout.node_progress import Standing
from devopsellence.controller.rollout.status import advance, fold
from devopsellence.controller.rollout.target import Course, Releases, course_of, releases_of
from devopsellence.controller.rollout.task import Decision, decide
from devopsellence.controller.rollout.verdict import Facts, weigh
from devopsellence.controller.scheduler.placement import place
from devopsellence.store.keys import Keys

# How many keys what is recorded is compared with, and how many nodes' assignments and statuses a verdict about the
# release; leaves room for the rest in a transaction.
_MAX_COMPARED: Final = 90
_MAX_BLAMED_COMPARED: Final = 10
# For a release that says nothing about it, which the command line does not write.
DEFAULT_DEADLINE_SECONDS: Final = 600.0
_EVENT_CODES: Final[dict[Kind, str]] = {
    Kind.WRITE_ASSIGNMENT: events.ASSIGNMENT_WRITTEN,
    Kind.WITHDRAW_ASSIGNMENT: events.ASSIGNMENT_WITHDRAWN,
    Kind.DELETE_ASSIGNMENT: events.ASSIGNMENT_DELETED,
}


def plan(world: World, now: Moment, keys: Keys) -> Plan:
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


def _without_environment(world: World, now: Moment, keys: Keys) -> Plan:
    rests_on = Basis(keys.environment(world.ref), 0)
    actions = _some(withdraw(keys, world.ref, view, "the environment was deleted") for view in world.nodes)
    left = any(view.assignment is not None or view.status is not None for view in world.nodes)
    if world.rollout is not None and not left:
        change = Change(keys.rollout(world.ref), world.rollout.mod_revision)
        actions.append(Action(Kind.DELETE_ROLLOUT, "the environment was deleted and nothing is left of it", (change,)))
    actions += distribute(world, (), keys)
    return Plan(rests_on, actions, _tell(actions, now, release=0))


def _with_unreadable_environment(world: World, keys: Keys) -> Plan:
    record = world.environment
    if record is None or record.error is None:
        raise ValueError(f"{world.ref}: the environment can be read")
    rests_on = Basis(record.key, record.mod_revision)
    stored = world.rollout.message if world.rollout is not None else None
    reason = f"{record.error}; the nodes keep what they have"
    if world.rollout is None or stored is None or stored.reason == reason:
        return Plan(rests_on)
    rollout = pb.Rollout()
    rollout.CopyFrom(stored)
    rollout.reason = reason
    change = Change(world.rollout.key, world.rollout.mod_revision, rollout)
    return Plan(rests_on, (Action(Kind.WRITE_ROLLOUT, reason, (change,)),))


def _with_environment(world: World, environment: pb.Environment, now: Moment, keys: Keys) -> Plan:
    record = world.environment
    rests_on = Basis(keys.environment(world.ref), record.mod_revision if record is not None else 0)
    attached = frozenset(environment.nodes)
    number = environment.latest_release
    if number == 0:
        nothing = Brief(world, Course(0, 0), Releases(None, None), None, {}, keys)
        assigning = assign_all(nothing, attached)
        actions = [*assigning.actions, *distribute(world, assigning.standings, keys)]
        return Plan(rests_on, actions, _tell(actions, now, release=0))
    before = begin(world, number, now)
    course = course_of(before)
    releases = releases_of(world, course, keys)
    decision = _decide(world, attached, releases.newest, before, keys)
    survey = _survey(world, attached, course, releases, decision.task, now, keys)
    watch = advance(survey.facts, world.stopwatch, now)
    outcome = weigh(survey.facts, before, watch, now)
    blamed = outcome.blamed
    if outcome.course != course:
        # The rollout has turned round: what the nodes are to run is worked out again, from what is recorded with it.
        survey = _survey(world, attached, outcome.course, releases, outcome.task, now, keys)
        watch = advance(survey.facts, world.stopwatch, now)
        outcome = weigh(survey.facts, before, watch, now)
    previous = world.rollout.message if world.rollout is not None else None
    folded = fold(survey.facts, outcome, before, previous, watch, now)
    told = [*folded.events, *_tell(survey.assigning.actions, now, release=outcome.course.target)]
    actions = _in_order(world, folded.rollout, survey, [*_basis_of(blamed, world, keys), *decision.rests_on], keys)
    actions += distribute(world, survey.assigning.standings, keys)
    rechecks = [one for one in (folded.recheck_after, *survey.rechecks) if one is not None]
    return Plan(rests_on, actions, told, folded.stopwatch, min(rechecks, default=None))


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the nodes are to run on one course, and how they fare."""

    assigning: Assigning
    facts: Facts
    # When to look again because of where services are placed, in seconds.
    rechecks: Sequence[float | None]


def _survey(
    world: World,
    attached: frozenset[str],
    course: Course,
    releases: Releases,
    task: pb.TaskStatus | None,
    now: Moment,
    keys: Keys,
) -> _Survey:
    followed = (course.release, course.last_settled) if course.holds else (course.target,)
    found = [release for number in followed if (release := releases.of(number)) is not None]
    placings = {release.number: place(world, attached, release, now) for release in found}
    assigning = assign_all(Brief(world, course, releases, task, placings, keys), attached)
    target = releases.of(course.target)
    shortages = placings[target.number].shortages if target is not None and target.number in placings else ()
    stored = world.rollout.message if world.rollout is not None else None
    known = stored.task.phase if stored is not None and stored.release == course.release else pb.TaskStatus.WAITING
    facts = Facts(
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
        troubles=[*problems(assigning.needed, frozenset(assigning.lacking), world.secrets), *shortages],
    )
    return _Survey(assigning, facts, [placing.recheck_after for placing in placings.values()])


def _decide(
    world: World, attached: frozenset[str], newest: pb.Release | None, before: pb.Rollout, keys: Keys
) -> Decision:
    """The newest release's task; of one that cannot be read, as it was known."""
    if newest is None:
        return Decision(before.task if before.HasField("task") else None)
    return decide(world, attached, newest, keys)


def _why_not(releases: Releases, course: Course) -> str:
    why = releases.why_not(course)
    return f"{why}; the nodes keep what they have until another release is deployed" if why else ""


def _in_order(
    world: World, rollout: pb.Rollout, survey: _Survey, decided_from: Sequence[Basis], keys: Keys
) -> list[Action]:
    """The Rollout, where it changes, before the assignments that follow from it; otherwise these rest on it."""
    key = keys.rollout(world.ref)
    revision = world.rollout.mod_revision if world.rollout is not None else 0
    actions = survey.assigning.actions
    if world.rollout is not None and rollout == world.rollout.message:
        # Who moves follows from what is recorded: an old copy of it must not decide that.
        return [_resting_on(Basis(key, revision), one) for one in actions]
    nodes = _basis_of_nodes(survey.assigning.standings) if survey.facts.unplaced else ()
    change = Change(key, revision, rollout)
    # Also so that the task's record is there before its node is told of it, and so that whoever follows the release
    # sees it begin, where the rest takes several transactions.
    rests_on = [*decided_from, *nodes][:_MAX_COMPARED]
    return [Action(Kind.WRITE_ROLLOUT, rollout.reason, (change,), rests_on=rests_on), *actions]


def _resting_on(basis: Basis, action: Action) -> Action:
    return replace(action, rests_on=[*action.rests_on, basis])


def _deadline(release: pb.Release | None) -> float:
    if release is None:
        return DEFAULT_DEADLINE_SECONDS
    duration = release.rollout.progress_deadline
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_DEADLINE_SECONDS


def _basis_of_nodes(standings: Sequence[Standing]) -> list[Basis]:
    """The Nodes that a verdict about placement was made from: it fails the rollout, so an old copy must not make it."""
    records = [standing.view.node for standing in standings]
    return [Basis(record.key, record.mod_revision) for record in records if record is not None]


def _basis_of(blamed: Sequence[str], world: World, keys: Keys) -> list[Basis]:
    """What the verdict that a release has failed was made from: a report that has been overtaken must not make it."""
    names = frozenset(blamed[:_MAX_BLAMED_COMPARED])
    basis = []
    for view in world.nodes:
        if view.name in names:
            assignment, status = view.assignment, view.status
            basis += [
                Basis(keys.assignment(view.name, world.ref), assignment.mod_revision if assignment is not None else 0),
                Basis(keys.status(view.name, world.ref), status.mod_revision if status is not None else 0),
            ]
    return basis


def _tell(actions: Sequence[Action], now: Moment, *, release: int) -> list[pb.Event]:
    decisions = [
        (_EVENT_CODES[action.kind], action.reason, action.node) for action in actions if action.kind in _EVENT_CODES
    ]
    warn = [action.reason for action in actions if action.warning]
    return events.about_nodes(now.wall, decisions, release=release, warn=warn)


def _some(actions: Iterable[Action | None]) -> list[Action]:
    return [action for action in actions if action is not None]
