"""Goes through the nodes of an environment: what each should run, and what has to be written for that. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.actions import Action
from devopsellence.controller.assign import assign, keep, reduce, template, withdraw
from devopsellence.controller.phases import Stage, preparation, stage_of
from devopsellence.controller.placing import Placing
from devopsellence.controller.progress import Judgement, Standing
from devopsellence.controller.rollout import nodes_to_move
from devopsellence.controller.secrets import Reference, holdable, references_of, seal
from devopsellence.controller.task import sentence
from devopsellence.controller.world import NodeView, World
from devopsellence.placement import why_nowhere
from devopsellence.store.keys import Keys


@dataclass
class Assigning:
    """What is gathered while the nodes are gone through."""

    # One for each attached node, sorted by name.
    standings: list[Standing] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    # Services of the newest release that some node is to run, now or when the release task has succeeded.
    placed: set[str] = field(default_factory=set)
    # A node's assignment is written for the newest release.
    moved: bool = False
    # Secrets that the nodes need for the newest release, and those of them that some node is not given.
    needed: set[Reference] = field(default_factory=set)
    lacking: set[Reference] = field(default_factory=set)


def assign_all(
    world: World,
    attached: frozenset[str],
    release: pb.Release | None,
    task: pb.TaskStatus | None,
    placing: Placing,
    keys: Keys,
) -> Assigning:
    """What each node should run; ``task`` is the release's task as decided, None if it has none."""
    return _Round(world, release, task, placing, keys).go(attached)


def why_unplaced(release: pb.Release, assigning: Assigning) -> str:
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


def is_covered(release: pb.Release, standings: Sequence[Standing], judgements: Sequence[Judgement]) -> bool:
    """Whether each service of the release has settled on at least one node."""
    missing = {service.name for service in release.services}
    for standing, judgement in zip(standings, judgements, strict=True):
        if not missing:
            break
        assignment = standing.assignment
        settled = judgement.progress.phase == pb.NodeProgress.SETTLED
        if settled and assignment is not None and is_whole(assignment, release):
            missing.difference_update(service.name for service in assignment.services)
    return not missing


def is_whole(assignment: pb.Assignment, release: pb.Release) -> bool:
    """Whether it gives the node all that it is to run of ``release``, and not only what the task needs."""
    return assignment.release == release.number and not assignment.HasField("task")


@dataclass(frozen=True, slots=True)
class _Template:
    """What nodes that run the same services are given."""

    assignment: pb.Assignment
    # Secrets that are not to be found, and whether a node may hold some of them.
    lacking: frozenset[Reference]
    holdable: bool


class _Round:
    """One pass over the nodes of an environment."""

    def __init__(
        self, world: World, release: pb.Release | None, task: pb.TaskStatus | None, placing: Placing, keys: Keys
    ) -> None:
        self._world = world
        self._release = release
        self._task = task
        self._stage = stage_of(task)
        self._placing = placing
        self._keys = keys
        # A release's services are copied, and its secrets looked up, once for each set of services.
        self._templates: dict[frozenset[str], _Template] = {}
        self._writes: dict[str, Action] = {}
        self._result = Assigning()

    def go(self, attached: frozenset[str]) -> Assigning:
        for view in self._world.nodes:
            if view.name not in attached:
                self._withdraw(view, "no longer attached")
            elif view.node is None:
                self._withdraw(view, "no longer registered")
                self._result.standings.append(Standing(view, None))
            else:
                self._result.standings.append(self._attached(view, view.node.message))
        moving = nodes_to_move(list(self._writes))
        self._result.actions += [self._writes[name] for name in moving]
        self._result.moved = bool(moving)
        return self._result

    def _withdraw(self, view: NodeView, why: str) -> None:
        action = withdraw(self._keys, self._world.ref, view, why)
        if action is not None:
            self._result.actions.append(action)

    def _attached(self, view: NodeView, node: pb.Node | None) -> Standing:
        release, names = self._release, self._placing.services.get(view.name)
        if node is not None and node.HasField("drain") and names is not None:
            return self._drained(view, names)
        if node is None or release is None or node.cordoned or names is None:
            return self._kept(view, node)
        wanted = self._template(release, names)
        if self._stage is Stage.OPEN:
            return self._given(view, node, wanted)
        if self._stage is Stage.PREPARING and self._is_tasks(view):
            return self._prepared(view, node, release, wanted.assignment)
        return self._kept(view, node)

    def _is_tasks(self, view: NodeView) -> bool:
        return self._task is not None and view.name == self._task.node

    def _template(self, release: pb.Release, names: frozenset[str]) -> _Template:
        if names not in self._templates:
            made = template(self._world.ref, release, names)
            lacking = seal(made, self._world.secrets)
            self._templates[names] = _Template(made, lacking, holdable(lacking, self._world.secrets))
            self._result.placed |= names
            self._result.needed |= references_of(made)
        return self._templates[names]

    def _drained(self, view: NodeView, names: frozenset[str]) -> Standing:
        """A node that is to be emptied stays at the release it has; a task that it has begun may end."""
        current = _current(view)
        if current is None or current.removed or current.HasField("task"):
            return self._kept(view, view.node.message if view.node is not None else None)
        left, action = reduce(self._keys, self._world.ref, view, self._world.secrets, names)
        self._result.actions += [action] if action is not None else []
        why = f": {self._placing.why[view.name]}" if view.name in self._placing.why else ""
        return Standing(view, left, f"{view.name} is being drained{why}; run devopsellence node uncordon {view.name}")

    def _given(self, view: NodeView, node: pb.Node, made: _Template) -> Standing:
        """All that the node is to run of the release."""
        wanted, lacking = made.assignment, made.lacking
        if made.holdable:
            wanted = pb.Assignment()
            wanted.CopyFrom(made.assignment)
            lacking = seal(wanted, self._world.secrets, _current(view))
        self._result.lacking |= lacking
        return Standing(view, self._assign(view, node, wanted))

    def _prepared(self, view: NodeView, node: pb.Node, release: pb.Release, wanted: pb.Assignment) -> Standing:
        """What the release task needs, and what ran before; if that cannot be read, the node is left alone."""
        if view.assignment is not None and view.assignment.error is not None:
            return Standing(view, None, task=self._task)
        made, kept = preparation(release, wanted, _current(view), node.uid)
        lacking = seal(made, self._world.secrets, _current(view))
        self._result.needed |= references_of(made)
        self._result.lacking |= lacking
        return Standing(view, self._assign(view, node, made), task=self._task, kept=kept)

    def _assign(self, view: NodeView, node: pb.Node, wanted: pb.Assignment) -> pb.Assignment:
        assignment, action = assign(
            self._keys, self._world.ref, view, node, wanted, self._placing.why.get(view.name, "")
        )
        if action is not None:
            self._writes[view.name] = action
        return assignment

    def _kept(self, view: NodeView, node: pb.Node | None) -> Standing:
        """Leaves a node at what it has: its Node or the release cannot be read, it is cordoned, or the task holds."""
        release, current = self._release, _current(view)
        if current is not None and current.removed:
            self._withdraw(view, "attached, but nothing can be assigned to it")
            current = None
        if release is not None:
            kept, action = keep(self._keys, self._world.ref, view, self._world.secrets, release.number)
            current = kept if current is not None else None
            self._result.actions += [action] if action is not None else []
        if release is not None and current is not None and is_whole(current, release):
            self._result.placed.update(service.name for service in current.services)
            return Standing(view, current)
        if self._is_tasks(view) and self._stage is not Stage.OPEN:
            return Standing(view, current, task=self._task)
        return Standing(view, current, *self._why_kept(view.name, node, current))

    def _why_kept(self, name: str, node: pb.Node | None, current: pb.Assignment | None) -> tuple[str, bool]:
        """Why the node is left at what it has, and whether it only waits its turn."""
        if node is not None and node.cordoned:
            keeps = f"keeps {_what(current)}" if current is not None else "takes nothing new"
            return f"{name} is cordoned and {keeps}; run devopsellence node uncordon {name}", False
        if node is None:
            return "", False
        if self._stage is Stage.PREPARING and self._task is not None:
            return f"{name} waits for the release task on {self._task.node}", True
        if self._task is not None and self._stage is Stage.CLOSED:
            keeps = f"keeps {_what(current)}" if current is not None else "gets nothing"
            failed = self._task.phase == pb.TaskStatus.FAILED
            why = f"the release task of release {self._task.release} failed" if failed else sentence(self._task)
            return f"{name} {keeps}: {why}", not failed
        return f"{name} keeps what it has", False


def _what(current: pb.Assignment) -> str:
    return "what ran beside the release task" if current.HasField("task") else f"release {current.release}"


def _current(view: NodeView) -> pb.Assignment | None:
    return view.assignment.message if view.assignment is not None else None
