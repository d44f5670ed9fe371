"""Goes through the nodes of an environment: what each should run, and what has to be written for that now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.image_peers import ImagePeers, images_of, missing_images
from devopsellence.controller.assign.node import assign, is_assigned, keep, offer, reduce, template, withdraw
from devopsellence.controller.assign.secrets import SecretReference, add_secrets, holdable, references_of
from devopsellence.controller.model.actions import WriteAction
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.coverage import is_whole
from devopsellence.controller.rollout.node_progress import Hold, NodeProgress, PlannedNode, progress_of
from devopsellence.controller.rollout.target import KnownReleases, RolloutTarget, assigned, release_at
from devopsellence.controller.rollout.task import describe_task
from devopsellence.controller.rollout.task_stage import TaskStage, preparation, stage_of
from devopsellence.controller.rollout.turns import NodeUpdate, batch_clause, choose_updates, recorded_as_moved
from devopsellence.controller.scheduler.placement import EnvironmentPlacement
from devopsellence.placement.max_parallel import limit_of
from devopsellence.store.keys import Keys
from devopsellence.store.record import message_of


@dataclass(frozen=True, slots=True)
class PassInput:
    """What all nodes of an environment have in common."""

    world: EnvironmentSnapshot
    course: RolloutTarget
    releases: KnownReleases
    # The newest release's task as decided; None if it has none.
    task: pb.TaskStatus | None
    # Where the services of each release run that nodes are to run, by its number.
    placings: Mapping[int, EnvironmentPlacement]
    keys: Keys


@dataclass
class PassResult:
    """What is gathered while the nodes are gone through."""

    # One for each attached node, sorted by name.
    standings: list[PlannedNode] = field(default_factory=list)
    judgements: list[NodeProgress] = field(default_factory=list)
    actions: list[WriteAction] = field(default_factory=list)
    # Services of the target that some node is to run, now or later.
    placed: set[str] = field(default_factory=set)
    # A node's assignment is written for the release that it is to run.
    moved: bool = False
    # Secrets that the nodes need, and those of them that some node is not given.
    needed: set[SecretReference] = field(default_factory=set)
    lacking: set[SecretReference] = field(default_factory=set)


def assign_all(brief: PassInput, attached: frozenset[str]) -> PassResult:
    """What each node should run, and who of those that are to run something else moves now."""
    return _EnvironmentPass(brief, attached).go()


@dataclass(frozen=True, slots=True)
class _Template:
    """What nodes that run the same services are given."""

    assignment: pb.Assignment
    # Secrets that are not to be found, and whether a node may hold some of them.
    lacking: frozenset[SecretReference]
    holdable: bool
    # The same for two assignments that are equal, also of two plans; quickly compared.
    mark: bytes


class _EnvironmentPass:
    """One pass over the nodes of an environment."""

    def __init__(self, brief: PassInput, attached: frozenset[str]) -> None:
        self._world, self._keys = brief.world, brief.keys
        self._course, self._releases, self._task = brief.course, brief.releases, brief.task
        self._placings = brief.placings
        self._stage = stage_of(brief.task)
        self._attached_names = attached
        # A release's services are copied, and its secrets looked up, once for each set of services.
        self._templates: dict[tuple[int, frozenset[str]], _Template] = {}
        self._result = PassResult()
        newest = brief.releases.newest
        max_parallel = newest.rollout.max_parallel if newest is not None else ""
        # Before anything has settled there is nothing to protect.
        self._limit = limit_of(max_parallel, self._count_taking_part()) if brief.course.last_settled else None
        self._how_turns_go = batch_clause(brief.course, max_parallel, self._limit)
        self._promised = recorded_as_moved(brief.world, brief.course)
        self._holders = ImagePeers((), brief.course.target)

    def _count_taking_part(self) -> int:
        records = (view.node for view in self._world.nodes if view.name in self._attached_names)
        return sum(1 for one in records if one is not None and one.message is not None and not one.message.cordoned)

    def go(self) -> PassResult:
        options = []
        for view in self._world.nodes:
            if view.name not in self._attached_names:
                self._withdraw(view, "no longer attached")
            elif view.node is None:
                self._withdraw(view, "no longer registered")
                options.append(NodeUpdate(PlannedNode(view, None)))
            else:
                options.append(self._option(view, view.node.message))
        judged = [progress_of(option.stays) for option in options]
        views = (option.stays.view for option in options)
        self._holders = ImagePeers(zip(views, judged, strict=True), self._course.target)
        task_node = self._task.node if self._task is not None else ""
        moving = choose_updates(options, judged, self._course, self._limit, self._promised, task_node)
        for option, judgement in zip(options, judged, strict=True):
            if judgement.node in moving:
                self._move(option)
            else:
                self._leave(option, judgement)
        self._result.moved = bool(moving)
        return self._result

    def _withdraw(self, view: NodeView, why: str) -> None:
        action = withdraw(self._keys, self._world.ref, view, why)
        if action is not None:
            self._result.actions.append(action)

    # Who moves

    def _move(self, option: NodeUpdate) -> None:
        stays, view = option.stays, option.stays.view
        node = message_of(view.node)
        if option.wanted is None or node is None:
            raise ValueError(f"{view.name} has nowhere to move")
        why_placed = self._placings[option.wanted.release].why.get(view.name, "")
        whole = is_whole(option.wanted, option.wanted.release)
        peers = self._holders.choose(view.name, images_of(option.wanted)) if whole else ()
        made, action = assign(self._keys, self._world.ref, view, node, option.wanted, why_placed, peers)
        hold, why = (None, "") if stays.hold is Hold.TURN else (stays.hold, stays.why)
        moved = PlannedNode(view, made, hold, why, stays.task, stays.kept)
        self._result.actions.append(action)
        self._result.standings.append(moved)
        self._result.judgements.append(progress_of(moved))

    def _leave(self, option: NodeUpdate, judgement: NodeProgress) -> None:
        """The node is left at what it has, except for what can be brought up to date there."""
        stays = option.stays
        if self._may_touch and option.wanted is not None:
            stays = self._kept_up(stays)
        if stays is option.stays and not judgement.done:
            stays = self._helped(stays)
        if stays is not option.stays:
            judgement = progress_of(stays)
        self._result.standings.append(stays)
        self._result.judgements.append(judgement)

    def _helped(self, standing: PlannedNode) -> PlannedNode:
        """``standing`` with others to ask for the images that the node lacks, where it knows of none who can help."""
        current = standing.assignment
        if current is None or current is not assigned(standing.view) or not is_whole(current, self._course.target):
            return standing
        images = missing_images(standing.view) if standing.hold is None else frozenset()
        peers = self._holders.choose(standing.view.name, images) if images else []
        if not peers or any(self._holders.has(peer) for peer in current.peers):
            return standing
        made, action = offer(self._keys, self._world.ref, standing.view, current, peers)
        self._result.actions.append(action)
        return replace(standing, assignment=made)

    # What a node is to run

    def _option(self, view: NodeView, node: pb.Node | None) -> NodeUpdate:
        target = self._placings.get(self._course.target)
        names = target.services.get(view.name) if target is not None else None
        if node is not None and node.HasField("drain") and names is not None:
            why = target.why.get(view.name, "") if target is not None else ""
            return NodeUpdate(self._drained(view, names, why))
        release = self._bearing(view)
        placing = self._placings.get(release.number) if release is not None else None
        names = placing.services.get(view.name) if placing is not None else None
        if node is None or release is None or node.cordoned or names is None:
            return NodeUpdate(self._kept(view, node))
        wanted = self._template(release, names)
        if release.number != self._course.release or self._stage is TaskStage.OPEN:
            return self._given(view, node, wanted)
        if self._stage is TaskStage.PREPARING and self._is_tasks(view):
            return self._prepared(view, node, release, wanted.assignment)
        return NodeUpdate(self._kept(view, node))

    def _bearing(self, view: NodeView) -> pb.Release | None:
        """The release that the node is to run: the target, or, once the rollout has halted, the one that it has."""
        return self._releases.of(release_at(view) if self._course.holds else self._course.target)

    def _is_tasks(self, view: NodeView) -> bool:
        return self._task is not None and view.name == self._task.node

    def _template(self, release: pb.Release, names: frozenset[str]) -> _Template:
        key = (release.number, names)
        if key not in self._templates:
            made = template(self._world.ref, release, names)
            lacking = add_secrets(made, self._world.secrets)
            mark = made.SerializeToString(deterministic=True)
            self._templates[key] = _Template(made, lacking, holdable(lacking, self._world.secrets), mark)
            self._result.needed |= references_of(made)
        if release.number == self._course.target:
            self._result.placed |= names
        return self._templates[key]

    def _given(self, view: NodeView, node: pb.Node, made: _Template) -> NodeUpdate:
        """All that the node is to run of a release."""
        wanted, lacking = made.assignment, made.lacking
        if made.holdable:
            wanted = pb.Assignment()
            wanted.CopyFrom(made.assignment)
            lacking = add_secrets(wanted, self._world.secrets, _current(view))
        self._result.lacking |= lacking
        current = assigned(view)
        halted = self._course.holds and wanted.release != self._course.release
        hold, why = (Hold.HALT, self._why_halted(view.name, current)) if halted else (None, "")
        if self._has(view, node, wanted, made):
            return NodeUpdate(PlannedNode(view, current, hold, why))
        if not halted and release_at(view) != wanted.release:
            hold, why = Hold.TURN, f"{view.name} waits its turn{self._how_turns_go}"
        return NodeUpdate(PlannedNode(view, current, hold, why), wanted)

    @staticmethod
    def _has(view: NodeView, node: pb.Node, wanted: pb.Assignment, made: _Template) -> bool:
        if wanted is not made.assignment:
            return is_assigned(view, node, wanted)
        return view.recall("assigned", (node.uid, made.mark), lambda: is_assigned(view, node, wanted))

    def _prepared(self, view: NodeView, node: pb.Node, release: pb.Release, wanted: pb.Assignment) -> NodeUpdate:
        """What the release task needs, and what ran before; if that cannot be read, the node is left alone."""
        if view.assignment is not None and view.assignment.error is not None:
            return NodeUpdate(PlannedNode(view, None, task=self._task))
        made, kept = preparation(release, wanted, _current(view), node.uid)
        lacking = add_secrets(made, self._world.secrets, _current(view))
        self._result.needed |= references_of(made)
        self._result.lacking |= lacking
        stays = PlannedNode(view, assigned(view), task=self._task, kept=kept)
        return NodeUpdate(stays, None if is_assigned(view, node, made) else made)

    def _drained(self, view: NodeView, names: frozenset[str], why: str) -> PlannedNode:
        """A node that is to be emptied stays at the release it has; a task that it has begun may end.

        ``why``: a clause about what is left there and why; "" where nothing is to be left.
        """
        current = assigned(view)
        if current is None or current.HasField("task"):
            return self._kept(view, message_of(view.node))
        left, action = reduce(self._keys, self._world.ref, view, self._world.secrets, names)
        self._result.actions += [action] if action is not None else []
        empty = left is None or not left.services
        what = "has been drained" if empty else f"is being drained{f': {why}' if why else ''}"
        return PlannedNode(view, left, Hold.OUT, f"{view.name} {what}; run devopsellence node uncordon {view.name}")

    def _kept(self, view: NodeView, node: pb.Node | None) -> PlannedNode:
        """Leaves a node at what it has: its Node or the release cannot be read, it takes no part, or it is held."""
        if view.assignment is not None and view.assignment.message is not None and view.assignment.message.removed:
            self._withdraw(view, "attached, but nothing can be assigned to it")
        standing = PlannedNode(view, assigned(view))
        if self._may_touch:
            standing = self._kept_up(standing)
        current = standing.assignment
        if current is not None and is_whole(current, self._course.target):
            self._result.placed.update(service.name for service in current.services)
            return standing
        if self._is_tasks(view) and self._stage is not TaskStage.OPEN and not self._course.going_back:
            return PlannedNode(view, current, task=self._task)
        return PlannedNode(view, current, *self._why_kept(view.name, node, current))

    @property
    def _may_touch(self) -> bool:
        """Whether it is known what is to run, so that what a node keeps is brought up to date."""
        return self._releases.of(self._course.target) is not None

    def _kept_up(self, standing: PlannedNode) -> PlannedNode:
        """``standing`` with its secrets as they are stored now, and without a task that is not to be begun."""
        failed = self._task is not None and self._task.phase == pb.TaskStatus.FAILED
        kept, action = keep(
            self._keys,
            self._world.ref,
            standing.view,
            self._world.secrets,
            self._course.release,
            task_failed=failed,
        )
        if action is None:
            return standing
        self._result.actions.append(action)
        return PlannedNode(standing.view, kept, standing.hold, standing.why, standing.task, standing.kept)

    # Why it is held

    def _why_kept(self, name: str, node: pb.Node | None, current: pb.Assignment | None) -> tuple[Hold, str]:
        keeps = f"keeps {_what(current)}" if current is not None else "gets nothing"
        if node is not None and node.cordoned:
            keeps = keeps if current is not None else "takes nothing new"
            return Hold.OUT, f"{name} is cordoned and {keeps}; run devopsellence node uncordon {name}"
        if self._releases.of(self._course.target) is None:
            return Hold.HALT, f"{name} {keeps}: release {self._course.target} cannot be read"
        if self._course.holds:
            return Hold.HALT, self._why_halted(name, current)
        if self._stage is TaskStage.PREPARING and self._task is not None and not self._course.going_back:
            return Hold.TASK, f"{name} waits for the release task on {self._task.node}"
        if self._stage is TaskStage.CLOSED and self._task is not None and not self._course.going_back:
            failed = self._task.phase == pb.TaskStatus.FAILED
            why = f"the release task of release {self._task.release} failed" if failed else describe_task(self._task)
            return (Hold.HALT if failed else Hold.TASK), f"{name} {keeps}: {why}"
        return Hold.OUT, f"{name} keeps what it has"

    def _why_halted(self, name: str, current: pb.Assignment | None) -> str:
        keeps = f"keeps {_what(current)}" if current is not None else "gets nothing"
        return f"{name} {keeps}: release {self._course.release} has been halted"


def _what(current: pb.Assignment) -> str:
    return "what ran beside the release task" if current.HasField("task_service") else f"release {current.release}"


def _current(view: NodeView) -> pb.Assignment | None:
    return message_of(view.assignment)
