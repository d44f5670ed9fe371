"""The plan for one environment: which assignments, tombstones, ingress parts and Rollout to write. Pure.

``plan(snapshot, now, keys)`` takes everything stored about an environment and returns actions, each with a reason.
Actions may be cut off anywhere: a new snapshot and a new plan lead to the same end. An unreadable value is never taken
for an absent value. Nodes update in batches; a failed release rolls back to the last settled release. A release with a
task goes to the node of the task first, and to all nodes after the task has succeeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.clock import Now
from devopsellence.controller.assign.environment import PassInput, PassResult, assign_all
from devopsellence.controller.assign.node import withdraw
from devopsellence.controller.assign.secrets import secret_problems
from devopsellence.controller.ingress.claims import plan_claims
from devopsellence.controller.ingress.node_parts import plan_parts
from devopsellence.controller.model import events
from devopsellence.controller.model.actions import EnvironmentPlan, KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.coverage import is_covered, why_unplaced
from devopsellence.controller.rollout.history import begin_rollout
from devopsellence.controller.rollout.node_progress import PlannedNode
from devopsellence.controller.rollout.status import advance_stopwatch, update_rollout
from devopsellence.controller.rollout.target import KnownReleases, RolloutTarget, known_releases, recorded_target
from devopsellence.controller.rollout.task import TaskDecision, decide_task
from devopsellence.controller.rollout.trial import trial_of
from devopsellence.controller.rollout.verdict import RolloutFacts, judge
from devopsellence.controller.scheduler.placement import EnvironmentPlacement, place_services, task_order
from devopsellence.store.keys import Keys
from devopsellence.store.record import message_of, revision_of

# Largest numbers of preconditions of a write of the Rollout, and of nodes among them whose assignments and statuses a
# failure was concluded from. They leave room in the transaction for the rest.
_MAX_COMPARED: Final = 90
_MAX_BLAMED_COMPARED: Final = 10
# For a release without a progress deadline; the command line always writes one.
DEFAULT_DEADLINE_SECONDS: Final = 600.0
_EVENT_CODES: Final[dict[WriteKind, str]] = {
    WriteKind.WRITE_ASSIGNMENT: events.ASSIGNMENT_WRITTEN,
    WriteKind.WITHDRAW_ASSIGNMENT: events.ASSIGNMENT_WITHDRAWN,
    WriteKind.DELETE_ASSIGNMENT: events.ASSIGNMENT_DELETED,
}


def plan(snapshot: EnvironmentSnapshot, now: Now, keys: Keys) -> EnvironmentPlan:
    """Return the plan for the environment of ``snapshot``.

    Deleted environment: tombstones, until nothing is left. Unreadable environment: no change but the reason of its
    Rollout. Otherwise: an assignment for each attached node, a tombstone for each detached node with an assignment, and
    ingress parts for the nodes that serve the ingress.
    """
    if snapshot.environment is None:
        return _without_environment(snapshot, now, keys)
    if snapshot.environment.message is None:
        return _with_unreadable_environment(snapshot, keys)
    return _with_environment(snapshot, snapshot.environment.message, now, keys)


def _without_environment(snapshot: EnvironmentSnapshot, now: Now, keys: Keys) -> EnvironmentPlan:
    rests_on = Precondition(keys.environment(snapshot.ref), 0)
    actions = _some(withdraw(keys, snapshot.ref, view, "the environment was deleted") for view in snapshot.nodes)
    left = any(view.assignment is not None or view.status is not None for view in snapshot.nodes)
    if snapshot.rollout is not None and not left:
        change = KeyChange(keys.rollout(snapshot.ref), snapshot.rollout.mod_revision)
        reason = "the environment was deleted and nothing is left of it"
        actions.append(WriteAction(WriteKind.DELETE_ROLLOUT, reason, (change,)))
    actions += _claims_and_parts(snapshot, frozenset(), (), keys)
    return EnvironmentPlan(rests_on, actions, _node_events(actions, now, release=0))


def _with_unreadable_environment(snapshot: EnvironmentSnapshot, keys: Keys) -> EnvironmentPlan:
    record = snapshot.environment
    if record is None or record.error is None:
        raise ValueError(f"{snapshot.ref}: the environment can be read")
    rests_on = Precondition(record.key, record.mod_revision)
    stored = message_of(snapshot.rollout)
    reason = f"{record.error}; the nodes keep what they have"
    if snapshot.rollout is None or stored is None or stored.reason == reason:
        return EnvironmentPlan(rests_on)
    rollout = pb.Rollout()
    rollout.CopyFrom(stored)
    rollout.reason = reason
    change = KeyChange(snapshot.rollout.key, snapshot.rollout.mod_revision, rollout)
    return EnvironmentPlan(rests_on, (WriteAction(WriteKind.WRITE_ROLLOUT, reason, (change,)),))


def _with_environment(
    snapshot: EnvironmentSnapshot, environment: pb.Environment, now: Now, keys: Keys
) -> EnvironmentPlan:
    rests_on = Precondition(keys.environment(snapshot.ref), revision_of(snapshot.environment))
    attached = frozenset(environment.nodes)
    newest = environment.latest_release
    if newest == 0:
        nothing = PassInput(snapshot, RolloutTarget(0, 0), KnownReleases(None, None), None, {}, keys)
        assigned = assign_all(nothing, attached)
        about_ingress = _claims_and_parts(snapshot, attached, assigned.planned_nodes, keys)
        actions = [*assigned.actions, *about_ingress]
        return EnvironmentPlan(rests_on, actions, _node_events(actions, now, release=0))
    before = begin_rollout(snapshot, newest, now)
    target = recorded_target(before)
    releases = known_releases(snapshot, target, keys)
    placements = _Placements(snapshot, attached, now)
    decision = _decide_task(snapshot, attached, releases.newest, before, placements, keys)
    survey = _survey(snapshot, attached, target, releases, decision.task, placements, keys)
    stopwatch = advance_stopwatch(survey.facts, snapshot.stopwatch, now)
    verdict = judge(survey.facts, before, stopwatch, now)
    blamed, failures = verdict.blamed, verdict.failures
    if verdict.target != target:
        # The rollout rolls back or halts: work out the assignments again for the new target.
        survey = _survey(snapshot, attached, verdict.target, releases, verdict.task, placements, keys)
        stopwatch = advance_stopwatch(survey.facts, snapshot.stopwatch, now)
        verdict = judge(survey.facts, before, stopwatch, now)
    stored = message_of(snapshot.rollout)
    update = update_rollout(survey.facts, verdict, before, stored, stopwatch, now, failures=failures)
    node_events = _node_events(survey.assigned.actions, now, release=verdict.target.release)
    decided_from = [*_preconditions_of_verdict(blamed, snapshot, keys), *decision.rests_on]
    actions = _in_order(snapshot, update.rollout, survey, decided_from, keys)
    actions += _claims_and_parts(snapshot, attached, survey.assigned.planned_nodes, keys)
    rechecks = [seconds for seconds in (update.recheck_after, *survey.rechecks) if seconds is not None]
    return EnvironmentPlan(
        rests_on, actions, [*update.events, *node_events], update.stopwatch, min(rechecks, default=None)
    )


def _claims_and_parts(
    snapshot: EnvironmentSnapshot, attached: frozenset[str], planned_nodes: Sequence[PlannedNode], keys: Keys
) -> list[WriteAction]:
    """Return the writes about the ingress besides the assignments: the claims first, of which the parts tell."""
    claims = plan_claims(snapshot, attached, planned_nodes, keys)
    return [*claims, *plan_parts(snapshot, planned_nodes, claims, keys)]


class _Placements:
    """Placements of the releases of one plan, each worked out once."""

    def __init__(self, snapshot: EnvironmentSnapshot, attached: frozenset[str], now: Now) -> None:
        self._snapshot, self._attached, self._now = snapshot, attached, now
        self._known: dict[int, EnvironmentPlacement] = {}

    def of(self, release: pb.Release) -> EnvironmentPlacement:
        """Return the placement of the services of ``release``."""
        if release.number not in self._known:
            self._known[release.number] = place_services(self._snapshot, self._attached, release, self._now)
        return self._known[release.number]


@dataclass(frozen=True, slots=True)
class _Survey:
    """Assignments of all nodes for a rollout target, and the facts for the verdict."""

    assigned: PassResult
    facts: RolloutFacts
    #: Seconds until placement has to look again; None: only after a change.
    rechecks: Sequence[float | None]


def _survey(
    snapshot: EnvironmentSnapshot,
    attached: frozenset[str],
    target: RolloutTarget,
    releases: KnownReleases,
    task: pb.TaskStatus | None,
    known: _Placements,
    keys: Keys,
) -> _Survey:
    numbers = (target.newest, target.last_settled) if target.is_halted else (target.release,)
    readable = [release for number in numbers if (release := releases.of(number)) is not None]
    placements = {release.number: known.of(release) for release in readable}
    assigned = assign_all(PassInput(snapshot, target, releases, task, placements, keys), attached)
    release = releases.of(target.release)
    placement = placements.get(release.number) if release is not None else None
    stored = message_of(snapshot.rollout)
    phase = stored.task.phase if stored is not None and stored.release == target.newest else pb.TaskStatus.WAITING
    facts = RolloutFacts(
        ref=snapshot.ref,
        target=target,
        unreadable=_why_unreadable(releases, target),
        unplaced=why_unplaced(release, assigned.placed, assigned.planned_nodes) if release is not None else "",
        can_roll_back=releases.can_roll_back,
        rollback_problem=releases.rollback_problem,
        moved=assigned.moved or (task is not None and task.phase != phase),
        nodes=assigned.nodes,
        covered=release is not None and is_covered(release, assigned.planned_nodes, assigned.nodes),
        deadline=_deadline(releases.newest),
        task=task,
        problems=[
            *secret_problems(assigned.needed, frozenset(assigned.missing_secrets), snapshot.secrets),
            *(placement.problems if placement is not None else ()),
            *assigned.problems,
        ],
        trial=trial_of(assigned.planned_nodes, assigned.nodes, target.release),
        oversized=assigned.oversized,
        choices=placement.choices if placement is not None else None,
    )
    return _Survey(assigned, facts, [placement.recheck_after for placement in placements.values()])


def _decide_task(
    snapshot: EnvironmentSnapshot,
    attached: frozenset[str],
    newest: pb.Release | None,
    before: pb.Rollout,
    placements: _Placements,
    keys: Keys,
) -> TaskDecision:
    """Return the release task of the newest release; as recorded before if the release cannot be read."""
    if newest is None:
        return TaskDecision(before.task if before.HasField("task") else None)

    def order(service: workload_pb2.Service, views: Sequence[NodeView]) -> list[str]:
        return task_order(placements.of(newest), newest, service, views)

    return decide_task(snapshot, attached, newest, order, keys)


def _why_unreadable(releases: KnownReleases, target: RolloutTarget) -> str:
    problem = releases.problem(target)
    return f"{problem}; the nodes keep what they have until another release is deployed" if problem else ""


def _in_order(
    snapshot: EnvironmentSnapshot,
    rollout: pb.Rollout,
    survey: _Survey,
    decided_from: Sequence[Precondition],
    keys: Keys,
) -> list[WriteAction]:
    """Return the write of the Rollout and then the assignments; without such a write they depend on its revision."""
    key = keys.rollout(snapshot.ref)
    revision = revision_of(snapshot.rollout)
    actions = survey.assigned.actions
    if snapshot.rollout is not None and rollout == snapshot.rollout.message:
        # The batch follows from the recorded Rollout: an old copy of it must not decide which nodes update.
        return [_resting_on(Precondition(key, revision), action) for action in actions]
    nodes = _preconditions_of_nodes(survey.assigned.planned_nodes) if survey.facts.unplaced else ()
    change = KeyChange(key, revision, rollout)
    # The Rollout comes first so that the record of the task exists before its node starts the task, and so that
    # followers of the release see its start even if the rest takes several transactions.
    rests_on = [*decided_from, *nodes][:_MAX_COMPARED]
    return [WriteAction(WriteKind.WRITE_ROLLOUT, rollout.reason, (change,), rests_on=rests_on), *actions]


def _resting_on(precondition: Precondition, action: WriteAction) -> WriteAction:
    return replace(action, rests_on=[*action.rests_on, precondition])


def _deadline(release: pb.Release | None) -> float:
    if release is None:
        return DEFAULT_DEADLINE_SECONDS
    duration = release.rollout.progress_deadline
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_DEADLINE_SECONDS


def _preconditions_of_nodes(planned_nodes: Sequence[PlannedNode]) -> list[Precondition]:
    """Return the Nodes as placement read them: placement fails the rollout, and an old copy of a Node must not."""
    records = [planned.view.node for planned in planned_nodes]
    return [Precondition(record.key, record.mod_revision) for record in records if record is not None]


def _preconditions_of_verdict(blamed: Sequence[str], snapshot: EnvironmentSnapshot, keys: Keys) -> list[Precondition]:
    """Return the records that show the failure of a release: an outdated report must not fail a release."""
    names = frozenset(blamed[:_MAX_BLAMED_COMPARED])
    preconditions = []
    for view in snapshot.nodes:
        if view.name in names:
            preconditions += [
                Precondition(keys.assignment(view.name, snapshot.ref), revision_of(view.assignment)),
                Precondition(keys.status(view.name, snapshot.ref), revision_of(view.status)),
            ]
    return preconditions


def _node_events(actions: Sequence[WriteAction], now: Now, *, release: int) -> list[pb.Event]:
    decisions = [
        (_EVENT_CODES[action.kind], action.reason, action.node) for action in actions if action.kind in _EVENT_CODES
    ]
    warn = [action.reason for action in actions if action.warning]
    return events.about_nodes(now.utc, decisions, release=release, warn=warn)


def _some(actions: Iterable[WriteAction | None]) -> list[WriteAction]:
    return [action for action in actions if action is not None]
