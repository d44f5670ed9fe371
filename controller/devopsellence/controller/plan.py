"""What to write for one environment: assignments, tombstones and the Rollout. Pure.

``plan(world, now, keys)`` is given all that is stored about an environment and answers with actions, each with its
reason. Every prefix of the actions, cut anywhere, followed by a new observation, leads to the same end. A value that
cannot be read is never taken for one that is not there. A release with a task goes to the task's node first, and to
everybody when the task has succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller import events
from devopsellence.controller.actions import Action, Basis, Change, Kind, Plan
from devopsellence.controller.assign import withdraw
from devopsellence.controller.assigning import Assigning, assign_all, is_covered, why_unplaced
from devopsellence.controller.placing import Placing, place
from devopsellence.controller.progress import Standing, judge
from devopsellence.controller.rollout import DEFAULT_DEADLINE_SECONDS, Facts, fold
from devopsellence.controller.secrets import problems
from devopsellence.controller.task import Decision, decide
from devopsellence.controller.world import Moment, World
from devopsellence.store.keys import Keys

# How many Nodes a verdict about placement is compared with; leaves room for the rest in a transaction.
_MAX_NODES_COMPARED: Final = 80
_EVENT_CODES: Final[dict[Kind, str]] = {
    Kind.WRITE_ASSIGNMENT: events.ASSIGNMENT_WRITTEN,
    Kind.WITHDRAW_ASSIGNMENT: events.ASSIGNMENT_WITHDRAWN,
    Kind.DELETE_ASSIGNMENT: events.ASSIGNMENT_DELETED,
}


def plan(world: World, now: Moment, keys: Keys) -> Plan:
    """What to write for the environment ``world`` is about.

    Deleted environment: tombstones, and in the end nothing is left. Unreadable environment: everything stays, and its
    Rollout says so. Otherwise: an assignment for each attached node, a tombstone for each other node that has one.
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
    release, unreadable = _newest_release(world, environment, keys)
    number = environment.latest_release
    attached = frozenset(environment.nodes)
    decision = decide(world, attached, release, keys) if release is not None else Decision(_task_as_recorded(world))
    placing = place(world, attached, release, now) if release is not None else Placing()
    assigning = assign_all(world, attached, release, decision.task, placing, keys)
    told = _tell(assigning.actions, now, release=number)
    if number == 0:
        return Plan(rests_on, assigning.actions, told)
    facts = _facts(world, release, unreadable, assigning, decision.task, number, placing)
    folded = fold(facts, world.stopwatch, now)
    revision = world.rollout.mod_revision if world.rollout is not None else 0
    key = keys.rollout(world.ref)
    if folded.rollout == facts.previous:
        # Who may be given what follows from the task's record: an old copy of it must not decide that.
        basis = Basis(key, revision)
        actions = [_resting_on(basis, one) if decision.task is not None else one for one in assigning.actions]
    else:
        nodes = _basis_of_nodes(assigning.standings) if facts.unplaced else ()
        change = Change(key, revision, folded.rollout)
        write = Action(Kind.WRITE_ROLLOUT, folded.rollout.reason, (change,), rests_on=[*nodes, *decision.rests_on])
        # First, so that the task's record is there before its node is told of it, and so that whoever follows the
        # release sees it begin, also where the rest takes several transactions.
        actions = [write, *assigning.actions]
    recheck_after = min((one for one in (folded.recheck_after, placing.recheck_after) if one is not None), default=None)
    return Plan(rests_on, actions, [*folded.events, *told], folded.stopwatch, recheck_after)


def _facts(
    world: World,
    release: pb.Release | None,
    unreadable: str,
    assigning: Assigning,
    task: pb.TaskStatus | None,
    number: int,
    placing: Placing,
) -> Facts:
    judgements = [judge(standing) for standing in assigning.standings]
    stored = world.rollout.message if world.rollout is not None else None
    known = stored.task.phase if stored is not None and stored.release == number else pb.TaskStatus.WAITING
    return Facts(
        ref=world.ref,
        release=number,
        previous=stored,
        unreadable=unreadable,
        unplaced=why_unplaced(release, assigning) if release is not None else "",
        moved=assigning.moved or (task is not None and task.phase != known),
        judgements=judgements,
        covered=release is not None and is_covered(release, assigning.standings, judgements),
        deadline=_deadline(release),
        task=task,
        troubles=[*problems(assigning.needed, frozenset(assigning.lacking), world.secrets), *placing.shortages],
    )


def _task_as_recorded(world: World) -> pb.TaskStatus | None:
    """The task of a release that cannot be read, as it was known."""
    environment = world.environment.message if world.environment is not None else None
    stored = world.rollout.message if world.rollout is not None else None
    if environment is None or stored is None or stored.release != environment.latest_release:
        return None
    return stored.task if stored.HasField("task") else None


def _resting_on(basis: Basis, action: Action) -> Action:
    return replace(action, rests_on=[*action.rests_on, basis])


def _newest_release(world: World, environment: pb.Environment, keys: Keys) -> tuple[pb.Release | None, str]:
    """The newest release, or None and why it cannot be rolled out (empty: there is none yet)."""
    number = environment.latest_release
    if number == 0:
        return None, ""
    kept = "; the nodes keep what they have until another release is deployed"
    if world.release is None:
        return None, f"release {number} is the newest, but {keys.release(world.ref, number)} does not exist{kept}"
    release = world.release.message
    if release is None:
        return None, f"release {number} cannot be rolled out: {world.release.error}{kept}"
    if release.number != number:
        return None, f"release {number} cannot be rolled out: its record says that it is release {release.number}{kept}"
    return release, ""


def _deadline(release: pb.Release | None) -> float:
    if release is None:
        return DEFAULT_DEADLINE_SECONDS
    duration = release.rollout.progress_deadline
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_DEADLINE_SECONDS


def _basis_of_nodes(standings: Sequence[Standing]) -> list[Basis]:
    """The Nodes that a verdict about placement was made from: it fails the rollout, so an old copy must not make it."""
    views = [standing.view for standing in standings if standing.view.node is not None]
    return [
        Basis(view.node.key, view.node.mod_revision) for view in views[:_MAX_NODES_COMPARED] if view.node is not None
    ]


def _tell(actions: Sequence[Action], now: Moment, *, release: int) -> list[pb.Event]:
    decisions = [(_EVENT_CODES[action.kind], action.reason, action.node) for action in actions if action.node]
    warn = [action.reason for action in actions if action.warning]
    return events.about_nodes(now.wall, decisions, release=release, warn=warn)


def _some(actions: Iterable[Action | None]) -> list[Action]:
    return [action for action in actions if action is not None]
