"""Pass over the nodes of an environment: the assignment of each node, and the writes due now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.image_peers import ImagePeers, images_of, missing_images
from devopsellence.controller.assign.node import assign, is_assigned, keep, offer, reduce, template, withdraw
from devopsellence.controller.assign.secrets import SecretReference, add_secrets, holdable, references_of
from devopsellence.controller.model.actions import WriteAction
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.batch import NodeUpdate, batch_clause, choose_updates, recorded_as_moved
from devopsellence.controller.rollout.coverage import is_whole
from devopsellence.controller.rollout.node_progress import Hold, NodeProgress, PlannedNode, progress_of
from devopsellence.controller.rollout.target import KnownReleases, RolloutTarget
from devopsellence.controller.rollout.task import describe_task
from devopsellence.controller.rollout.task_stage import TaskStage, preparation, stage_of
from devopsellence.controller.scheduler.placement import EnvironmentPlacement
from devopsellence.placement.max_parallel import limit_of
from devopsellence.store.keys import Keys
from devopsellence.store.record import message_of
from devopsellence.store.size import NODE_ROOM, size_problem


@dataclass(frozen=True, slots=True)
class PassInput:
    """Input of a pass, common to all nodes of an environment."""

    snapshot: EnvironmentSnapshot
    target: RolloutTarget
    releases: KnownReleases
    #: Release task of the newest release as decided; None without a task.
    task: pb.TaskStatus | None
    #: Placement of the services of each release that nodes are to run, by number of the release.
    placements: Mapping[int, EnvironmentPlacement]
    keys: Keys


@dataclass
class PassResult:
    """Result of a pass."""

    #: The attached nodes, sorted by name, and their progress in the same order.
    planned_nodes: list[PlannedNode] = field(default_factory=list)
    nodes: list[NodeProgress] = field(default_factory=list)
    actions: list[WriteAction] = field(default_factory=list)
    #: Services of the target release that some node is to run, now or later.
    placed: set[str] = field(default_factory=set)
    #: The plan updates at least one node.
    moved: bool = False
    #: Secrets that the nodes need, and the secrets among them missing from an assignment.
    needed: set[SecretReference] = field(default_factory=set)
    missing_secrets: set[SecretReference] = field(default_factory=set)
    #: Why an update of the target release is too large for etcd, in a sentence with the node; the first by name.
    oversized: str = ""
    #: Problems that keep an assignment from being brought up to date, in sentences.
    problems: list[str] = field(default_factory=list)


def assign_all(pass_input: PassInput, attached: frozenset[str]) -> PassResult:
    """Return the assignments of all nodes, with updates of the nodes in the current batch."""
    return _EnvironmentPass(pass_input, attached).run()


@dataclass(frozen=True, slots=True)
class _Template:
    """Assignment shared by all nodes with the same services."""

    assignment: pb.Assignment
    #: Missing secrets, and whether a node may still hold some of them.
    missing_secrets: frozenset[SecretReference]
    holdable: bool
    #: Equal for equal assignments, also of two plans; quick to compare.
    mark: bytes


class _EnvironmentPass:
    """Pass over the nodes of an environment."""

    def __init__(self, pass_input: PassInput, attached: frozenset[str]) -> None:
        self._snapshot, self._keys = pass_input.snapshot, pass_input.keys
        self._target, self._releases, self._task = pass_input.target, pass_input.releases, pass_input.task
        self._placements = pass_input.placements
        self._stage = stage_of(pass_input.task)
        self._attached_names = attached
        # Services of a release are copied, and secrets looked up, once for each set of services.
        self._templates: dict[tuple[int, frozenset[str]], _Template] = {}
        # Assignments with the problem of their size, by identity: many nodes share a template.
        self._measured: dict[int, tuple[pb.Assignment, str]] = {}
        self._result = PassResult()
        newest = pass_input.releases.newest
        max_parallel = newest.rollout.max_parallel if newest is not None else ""
        # Without a settled release there is nothing to protect.
        self._limit = limit_of(max_parallel, self._count_taking_part()) if pass_input.target.last_settled else None
        self._batch_clause = batch_clause(pass_input.target, max_parallel, self._limit)
        self._recorded = recorded_as_moved(pass_input.snapshot, pass_input.target)
        self._image_peers = ImagePeers((), pass_input.target.release)

    def _count_taking_part(self) -> int:
        records = (view.node for view in self._snapshot.nodes if view.name in self._attached_names)
        return sum(1 for node in map(message_of, records) if node is not None and not node.cordoned)

    def run(self) -> PassResult:
        updates = []
        for view in self._snapshot.nodes:
            if view.name not in self._attached_names:
                self._withdraw(view, "no longer attached")
            elif view.node is None:
                self._withdraw(view, "no longer registered")
                updates.append(NodeUpdate(PlannedNode(view, None)))
            else:
                updates.append(self._fitting(self._node(view, view.node.message)))
        nodes = [progress_of(update.unchanged) for update in updates]
        views = (update.unchanged.view for update in updates)
        self._image_peers = ImagePeers(zip(views, nodes, strict=True), self._target.release)
        task_node = self._task.node if self._task is not None else ""
        moving = choose_updates(updates, nodes, self._target, self._limit, self._recorded, task_node)
        for update, progress in zip(updates, nodes, strict=True):
            if progress.name in moving:
                self._update(update)
            else:
                self._keep(update, progress)
        self._result.moved = bool(moving)
        return self._result

    def _withdraw(self, view: NodeView, why: str) -> None:
        action = withdraw(self._keys, self._snapshot.ref, view, why)
        if action is not None:
            self._result.actions.append(action)

    # Size

    def _fitting(self, update: NodeUpdate) -> NodeUpdate:
        """Return ``update``, or the node without an update if its new assignment is too large for etcd."""
        view, assignment = update.unchanged.view, update.assignment
        if assignment is None:
            return update
        if id(assignment) not in self._measured:
            self._measured[id(assignment)] = (assignment, size_problem(assignment, room=NODE_ROOM))
        _, problem = self._measured[id(assignment)]
        if not problem:
            return update
        why = _why_oversized(view.name, assignment, problem)
        self._result.oversized = self._result.oversized or why
        unchanged = update.unchanged
        return NodeUpdate(replace(unchanged, hold=Hold.HALT, why=f"{view.name} keeps what it has: {why}"))

    def _fits(self, view: NodeView, assignment: pb.Assignment | None) -> bool:
        """Return whether a kept assignment can be written as brought up to date; otherwise note the problem."""
        problem = size_problem(assignment) if assignment is not None else ""
        if problem and assignment is not None:
            self._result.problems.append(f"{_why_oversized(view.name, assignment, problem)}; it stays as it is")
        return not problem

    # Updates

    def _update(self, update: NodeUpdate) -> None:
        unchanged, view = update.unchanged, update.unchanged.view
        node = message_of(view.node)
        if update.assignment is None or node is None:
            raise ValueError(f"{view.name} has no update")
        why_placed = self._placements[update.assignment.release].why.get(view.name, "")
        whole = is_whole(update.assignment, update.assignment.release)
        peers = self._image_peers.choose(view.name, images_of(update.assignment)) if whole else ()
        assignment, action = assign(
            self._keys,
            self._snapshot.ref,
            view,
            node,
            update.assignment,
            why_placed,
            peers,
            self._target.last_settled if update.assignment.release == self._target.newest else 0,
        )
        hold, why = (None, "") if unchanged.hold is Hold.BATCH else (unchanged.hold, unchanged.why)
        moved = PlannedNode(view, assignment, hold, why, unchanged.task, unchanged.kept)
        self._result.actions.append(action)
        self._result.planned_nodes.append(moved)
        self._result.nodes.append(progress_of(moved))

    def _keep(self, update: NodeUpdate, progress: NodeProgress) -> None:
        """Keep the node at its assignment, with its secrets and image peers brought up to date."""
        unchanged = update.unchanged
        if self._may_touch and update.assignment is not None:
            unchanged = self._up_to_date(unchanged)
        if unchanged is update.unchanged and not progress.done:
            unchanged = self._with_image_peers(unchanged)
        if unchanged is not update.unchanged:
            progress = progress_of(unchanged)
        self._result.planned_nodes.append(unchanged)
        self._result.nodes.append(progress)

    def _with_image_peers(self, planned: PlannedNode) -> PlannedNode:
        """Return ``planned`` with image peers for missing images, unless it has a peer that can help."""
        current = planned.assignment
        if (
            current is None
            or current is not planned.view.current_assignment
            or not is_whole(current, self._target.release)
        ):
            return planned
        images = missing_images(planned.view) if planned.hold is None else frozenset()
        peers = self._image_peers.choose(planned.view.name, images) if images else []
        if not peers or any(self._image_peers.has(peer) for peer in current.peers):
            return planned
        offered, action = offer(self._keys, self._snapshot.ref, planned.view, current, peers)
        if not self._fits(planned.view, offered):
            return planned
        self._result.actions.append(action)
        return replace(planned, assignment=offered)

    # Assignments

    def _node(self, view: NodeView, node: pb.Node | None) -> NodeUpdate:
        target = self._placements.get(self._target.release)
        names = target.services.get(view.name) if target is not None else None
        if node is not None and node.HasField("drain") and names is not None:
            why = target.why.get(view.name, "") if target is not None else ""
            return NodeUpdate(self._drained(view, names, why))
        release = self._release_for(view)
        placement = self._placements.get(release.number) if release is not None else None
        names = placement.services.get(view.name) if placement is not None else None
        if node is None or release is None or node.cordoned or names is None:
            return NodeUpdate(self._held(view, node))
        wanted = self._template(release, names)
        if release.number != self._target.newest or self._stage is TaskStage.OPEN:
            leaving = placement.leaving.get(view.name, frozenset()) if placement is not None else frozenset()
            return self._whole(view, node, wanted, leaving)
        if self._stage is TaskStage.PREPARING and self._is_tasks(view):
            return self._prepared(view, node, release, wanted.assignment)
        return NodeUpdate(self._held(view, node))

    def _release_for(self, view: NodeView) -> pb.Release | None:
        """Return the release that the node is to run: the target, or its own release once the rollout has halted."""
        return self._releases.of(view.current_release if self._target.is_halted else self._target.release)

    def _is_tasks(self, view: NodeView) -> bool:
        return self._task is not None and view.name == self._task.node

    def _template(self, release: pb.Release, names: frozenset[str]) -> _Template:
        key = (release.number, names)
        if key not in self._templates:
            shared = template(self._snapshot.ref, release, names)
            missing = add_secrets(shared, self._snapshot.secrets)
            mark = shared.SerializeToString(deterministic=True)
            self._templates[key] = _Template(shared, missing, holdable(missing, self._snapshot.secrets), mark)
            self._result.needed |= references_of(shared)
        if release.number == self._target.release:
            self._result.placed |= names
        return self._templates[key]

    def _whole(self, view: NodeView, node: pb.Node, shared: _Template, leaving: frozenset[str]) -> NodeUpdate:
        """Return the update to all services of a release that the node is to run.

        Replicas that are ``leaving`` stay as they are: an update would only change data that goes out of use.
        """
        wanted, missing = shared.assignment, shared.missing_secrets
        if leaving:
            wanted, missing = self._with_leaving(view, node, wanted, leaving)
        elif shared.holdable:
            wanted = pb.Assignment()
            wanted.CopyFrom(shared.assignment)
            missing = add_secrets(wanted, self._snapshot.secrets, _current(view))
        self._result.missing_secrets |= missing
        current = view.current_assignment
        halted = self._target.is_halted and wanted.release != self._target.newest
        hold, why = (Hold.HALT, self._why_halted(view.name, current)) if halted else (None, "")
        if self._is_current(view, node, wanted, shared):
            return NodeUpdate(PlannedNode(view, current, hold, why, kept=leaving))
        if not halted and view.current_release != wanted.release:
            hold, why = Hold.BATCH, f"{view.name} waits for its batch{self._batch_clause}"
        return NodeUpdate(PlannedNode(view, current, hold, why, kept=leaving), wanted)

    def _with_leaving(
        self, view: NodeView, node: pb.Node, shared: pb.Assignment, leaving: frozenset[str]
    ) -> tuple[pb.Assignment, frozenset[SecretReference]]:
        """Return ``shared`` with the ``leaving`` services of the node as they are, and its missing secrets."""
        current = _current(view)
        had = {}
        if current is not None and current.node_uid == node.uid:
            had = {service.name: service for service in current.services if service.name in leaving}
        wanted = pb.Assignment()
        wanted.CopyFrom(shared)
        del wanted.services[:]
        wanted.services.extend(had.get(service.name, service) for service in shared.services)
        missing = add_secrets(wanted, self._snapshot.secrets, current, keep_deleted=True)
        self._result.needed |= references_of(wanted)
        return wanted, missing

    @staticmethod
    def _is_current(view: NodeView, node: pb.Node, wanted: pb.Assignment, shared: _Template) -> bool:
        if wanted is not shared.assignment:
            return is_assigned(view, node, wanted)
        return view.recall("assigned", (node.uid, shared.mark), lambda: is_assigned(view, node, wanted))

    def _prepared(self, view: NodeView, node: pb.Node, release: pb.Release, wanted: pb.Assignment) -> NodeUpdate:
        """Return the update to the needs of the release task and the services from before.

        A node with an unreadable assignment is left alone.
        """
        if view.assignment is not None and view.assignment.error is not None:
            return NodeUpdate(PlannedNode(view, None, task=self._task))
        prepared, kept = preparation(release, wanted, _current(view), node.uid)
        missing = add_secrets(prepared, self._snapshot.secrets, _current(view))
        self._result.needed |= references_of(prepared)
        self._result.missing_secrets |= missing
        unchanged = PlannedNode(view, view.current_assignment, task=self._task, kept=kept)
        return NodeUpdate(unchanged, None if is_assigned(view, node, prepared) else prepared)

    def _drained(self, view: NodeView, names: frozenset[str], why: str) -> PlannedNode:
        """Return a node that is being drained: it stays at its release, and a running task may end.

        ``why`` is a clause about the services that stay for now; "" if none stays.
        """
        current = view.current_assignment
        if current is None or current.HasField("task"):
            return self._held(view, message_of(view.node))
        target = self._releases.of(self._target.release)
        left, action = reduce(self._keys, self._snapshot.ref, view, self._snapshot.secrets, names, target)
        if action is not None and not self._fits(view, left):
            left, action = current, None
        self._result.actions += [action] if action is not None else []
        empty = left is None or not left.services
        what = "has been drained" if empty else f"is being drained{f': {why}' if why else ''}"
        return PlannedNode(
            view, left, Hold.EXCLUDED, f"{view.name} {what}; run devopsellence node uncordon {view.name}"
        )

    def _held(self, view: NodeView, node: pb.Node | None) -> PlannedNode:
        """Return a node without an update: unreadable, cordoned or held."""
        if view.assignment is not None and view.assignment.message is not None and view.assignment.message.removed:
            self._withdraw(view, "attached, but nothing can be assigned to it")
        planned = PlannedNode(view, view.current_assignment)
        if self._may_touch:
            planned = self._up_to_date(planned)
        current = planned.assignment
        if current is not None and is_whole(current, self._target.release):
            self._result.placed.update(service.name for service in current.services)
            return planned
        if self._is_tasks(view) and self._stage is not TaskStage.OPEN and not self._target.rolls_back:
            return PlannedNode(view, current, task=self._task)
        return PlannedNode(view, current, *self._why_kept(view.name, node, current))

    @property
    def _may_touch(self) -> bool:
        """Return whether the target release can be read, so that kept assignments may be brought up to date."""
        return self._releases.of(self._target.release) is not None

    def _up_to_date(self, planned: PlannedNode) -> PlannedNode:
        """Return ``planned`` with its secrets as stored now, and without a task that must not start any more."""
        failed = self._task is not None and self._task.phase == pb.TaskStatus.FAILED
        kept, action = keep(
            self._keys,
            self._snapshot.ref,
            planned.view,
            self._snapshot.secrets,
            self._target.newest,
            task_failed=failed,
        )
        if action is None or not self._fits(planned.view, kept):
            return planned
        self._result.actions.append(action)
        return PlannedNode(planned.view, kept, planned.hold, planned.why, planned.task, planned.kept)

    # Reasons for holding a node

    def _why_kept(self, name: str, node: pb.Node | None, current: pb.Assignment | None) -> tuple[Hold, str]:
        keeps = f"keeps {_describe(current)}" if current is not None else "gets nothing"
        if node is not None and node.cordoned:
            keeps = keeps if current is not None else "takes nothing new"
            return Hold.EXCLUDED, f"{name} is cordoned and {keeps}; run devopsellence node uncordon {name}"
        if self._releases.of(self._target.release) is None:
            return Hold.HALT, f"{name} {keeps}: release {self._target.release} cannot be read"
        if self._target.is_halted:
            return Hold.HALT, self._why_halted(name, current)
        if self._stage is TaskStage.PREPARING and self._task is not None and not self._target.rolls_back:
            return Hold.TASK, f"{name} waits for the release task on {self._task.node}"
        if self._stage is TaskStage.CLOSED and self._task is not None and not self._target.rolls_back:
            failed = self._task.phase == pb.TaskStatus.FAILED
            why = f"the release task of release {self._task.release} failed" if failed else describe_task(self._task)
            return (Hold.HALT if failed else Hold.TASK), f"{name} {keeps}: {why}"
        return Hold.EXCLUDED, f"{name} keeps what it has"

    def _why_halted(self, name: str, current: pb.Assignment | None) -> str:
        keeps = f"keeps {_describe(current)}" if current is not None else "gets nothing"
        return f"{name} {keeps}: release {self._target.newest} has been halted"


def _why_oversized(node: str, assignment: pb.Assignment, problem: str) -> str:
    return f"the assignment of release {assignment.release} for {node} is too large for etcd: {problem}"


def _describe(current: pb.Assignment) -> str:
    return "what ran beside the release task" if current.HasField("task_service") else f"release {current.release}"


def _current(view: NodeView) -> pb.Assignment | None:
    return message_of(view.assignment)
