"""What to write for one environment: assignments, tombstones and the Rollout. Pure.

``plan(world, now, keys)`` is given all that is stored about an environment and answers with actions, each with its
reason. Every prefix of the actions, cut anywhere, followed by a new observation, leads to the same end. A value that
cannot be read is never taken for one that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller import events
from devopsellence.controller.actions import Action, Basis, Change, Kind, Plan
from devopsellence.controller.assign import assign, template, withdraw
from devopsellence.controller.progress import Judgement, Standing, judge
from devopsellence.controller.rollout import DEFAULT_DEADLINE_SECONDS, Facts, fold, nodes_to_move
from devopsellence.controller.world import Moment, NodeView, World
from devopsellence.placement import why_nowhere
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


@dataclass
class _Assigning:
    """What is gathered while the nodes are gone through."""

    # One for each attached node, sorted by name.
    standings: list[Standing] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    # Services of the newest release that some node is to run.
    placed: set[str] = field(default_factory=set)
    # A node's assignment is written, other than as a tombstone.
    moved: bool = False


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
    assigning = _assign_all(world, frozenset(environment.nodes), release, keys)
    number = environment.latest_release
    told = _tell(assigning.actions, now, release=number)
    if number == 0:
        return Plan(rests_on, assigning.actions, told)
    judgements = [judge(standing) for standing in assigning.standings]
    unplaced = _why_unplaced(release, assigning) if release is not None else ""
    stored = world.rollout.message if world.rollout is not None else None
    facts = Facts(
        ref=world.ref,
        release=number,
        previous=stored,
        unreadable=unreadable,
        unplaced=unplaced,
        moved=assigning.moved,
        judgements=judgements,
        covered=release is not None and _is_covered(release, assigning.standings, judgements),
        deadline=_deadline(release),
    )
    folded = fold(facts, world.stopwatch, now)
    actions = assigning.actions
    if folded.rollout != stored:
        change = Change(keys.rollout(world.ref), world.rollout.mod_revision if world.rollout else 0, folded.rollout)
        basis = _basis_of_nodes(assigning.standings, keys) if unplaced else ()
        # First, so that whoever follows the release sees it begin, also where the rest takes several transactions.
        actions = [Action(Kind.WRITE_ROLLOUT, folded.rollout.reason, (change,), rests_on=basis), *actions]
    return Plan(rests_on, actions, [*folded.events, *told], folded.stopwatch, folded.recheck_after)


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


def _assign_all(world: World, attached: frozenset[str], release: pb.Release | None, keys: Keys) -> _Assigning:
    """Goes through the nodes: what each should run, and what has to be written for that."""
    result = _Assigning()
    # Nodes with the same labels run the same services; a release's services are copied once for each set of labels.
    templates: dict[tuple[str, ...], pb.Assignment] = {}
    writes: dict[str, tuple[pb.Assignment, Action]] = {}
    for view in world.nodes:
        node = view.node.message if view.node is not None else None
        if view.name not in attached:
            result.actions += _some([withdraw(keys, world.ref, view, "no longer attached")])
        elif view.node is None:
            result.actions += _some([withdraw(keys, world.ref, view, "no longer registered")])
            result.standings.append(Standing(view, None))
        elif node is None or release is None or node.cordoned:
            _keep(world, view, node, release, keys, result)
        else:
            labels = tuple(node.labels)
            if labels not in templates:
                templates[labels] = template(world.ref, release, node)
                result.placed.update(service.name for service in templates[labels].services)
            assignment, action = assign(keys, world.ref, view, node, templates[labels])
            result.standings.append(Standing(view, assignment))
            if action is not None:
                writes[view.name] = assignment, action
    moving = nodes_to_move(list(writes))
    result.actions += [writes[name][1] for name in moving]
    result.moved = bool(moving)
    return result


def _keep(
    world: World, view: NodeView, node: pb.Node | None, release: pb.Release | None, keys: Keys, result: _Assigning
) -> None:
    """Leaves a node at what it has: its Node or the release cannot be read, or it is cordoned."""
    current = view.assignment.message if view.assignment is not None else None
    if current is not None and current.removed:
        result.actions += _some([withdraw(keys, world.ref, view, "attached, but nothing can be assigned to it")])
        current = None
    held = ""
    if release is not None and current is not None and current.release == release.number:
        result.placed.update(service.name for service in current.services)
    elif node is not None and node.cordoned:
        keeps = f"keeps release {current.release}" if current is not None else "takes nothing new"
        held = f"{view.name} is cordoned and {keeps}; run devopsellence node uncordon {view.name}"
    elif node is not None and release is None:
        held = f"{view.name} keeps what it has"
    result.standings.append(Standing(view, current, held))


def _why_unplaced(release: pb.Release, assigning: _Assigning) -> str:
    """Why a service of the release runs nowhere; empty if each runs somewhere, or if that cannot be known."""
    missing = [service for service in release.services if service.name not in assigning.placed]
    records = [standing.view.node for standing in assigning.standings]
    if not missing or any(record is not None and record.error is not None for record in records):
        return ""
    nodes = [record.message for record in records if record is not None and record.message is not None]
    if not nodes and records:
        names = ", ".join(standing.view.name for standing in assigning.standings)
        return f'no attached node is registered ({names}), so service "{missing[0].name}" runs nowhere'
    missing.sort(key=lambda service: service.name)
    return next((str(refusal) for service in missing if (refusal := why_nowhere(service, nodes))), "")


def _is_covered(release: pb.Release, standings: Sequence[Standing], judgements: Sequence[Judgement]) -> bool:
    """Whether each service of the release has settled on at least one node."""
    missing = {service.name for service in release.services}
    for standing, judgement in zip(standings, judgements, strict=True):
        if not missing:
            break
        assignment = standing.assignment
        settled = judgement.progress.phase == pb.NodeProgress.SETTLED
        if settled and assignment is not None and assignment.release == release.number:
            missing.difference_update(service.name for service in assignment.services)
    return not missing


def _deadline(release: pb.Release | None) -> float:
    if release is None:
        return DEFAULT_DEADLINE_SECONDS
    duration = release.rollout.progress_deadline
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_DEADLINE_SECONDS


def _basis_of_nodes(standings: Sequence[Standing], keys: Keys) -> list[Basis]:
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
