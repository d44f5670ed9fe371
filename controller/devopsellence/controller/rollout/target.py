"""Where an environment is going: to its newest release, or back to the one that settled last before it. Pure.

A rollout that fails goes back by itself, or halts, where there is something to go back to. Which of it is a state of
the Rollout (``target``, ``halted``), recorded before the assignments that follow from it, so that whoever leads next
goes on in the same direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.store.keys import Keys
from devopsellence.store.record import Record, message_of


@dataclass(frozen=True, slots=True)
class RolloutTarget:
    """What the nodes of an environment are to run, as its Rollout says."""

    # The newest release's number.
    release: int
    # What the environment is to run: ``release`` or ``last_settled``.
    target: int
    # The newest release before ``release`` that has settled; 0: none is known to.
    last_settled: int = 0
    # Why no further node is moved to ``release``; empty: they are.
    halted: str = ""

    @property
    def going_back(self) -> bool:
        """Whether the environment is to run an older release than its newest."""
        return self.target != self.release

    @property
    def holds(self) -> bool:
        """Whether every node stays at the release that it has."""
        return bool(self.halted) and not self.going_back

    def back(self, why: str) -> RolloutTarget:
        """Everything goes back, because of ``why``."""
        return replace(self, target=self.last_settled, halted=why)

    def hold(self, why: str) -> RolloutTarget:
        """Nobody moves any more, because of ``why``."""
        return replace(self, halted=why)


def recorded_target(rollout: pb.Rollout) -> RolloutTarget:
    """The course that ``rollout``, of the newest release, has recorded."""
    return RolloutTarget(
        release=rollout.release,
        target=rollout.target or rollout.release,
        last_settled=rollout.last_settled,
        halted=rollout.halted,
    )


def last_settled(world: EnvironmentSnapshot, number: int) -> int:
    """The newest release before ``number`` that has settled; 0: none is known to have.

    Where there is no record of the rollouts, the release that most nodes report to have settled at.
    """
    rollout = message_of(world.rollout)
    if rollout is None:
        return _read_back(world.nodes, number)
    found = [one.release for one in rollout.history if one.phase == pb.Rollout.SETTLED]
    found.append(rollout.last_settled)
    if rollout.phase == pb.Rollout.SETTLED:
        found.append(rollout.release)
    return max((one for one in found if one < number), default=0)


def fallback_number(world: EnvironmentSnapshot) -> int:
    """The release, besides the newest, whose record a plan needs; 0: none."""
    environment = message_of(world.environment)
    if environment is None or environment.latest_release == 0:
        return 0
    newest = environment.latest_release
    rollout = message_of(world.rollout)
    if rollout is not None and rollout.release == newest and rollout.target not in (0, newest):
        return rollout.target
    return last_settled(world, newest)


def _read_back(views: Iterable[NodeView], number: int) -> int:
    counts = Counter(found.release for view in views if (found := assigned(view)) and has_reported_settled(view, found))
    return max((one for one in counts if one < number), key=lambda one: (counts[one], one), default=0)


def assigned(view: NodeView) -> pb.Assignment | None:
    """The node's assignment, if it can be read and is no tombstone."""
    found = message_of(view.assignment)
    return found if found is not None and not found.removed else None


def is_partial(assignment: pb.Assignment) -> bool:
    """Whether it is one that a release with a task begins with: not all of the release."""
    return assignment.HasField("task") or assignment.HasField("task_service")


def has_reported_settled(view: NodeView, assignment: pb.Assignment) -> bool:
    """Whether the node has last reported that all of ``assignment``, a whole one, had settled; it may be silent now."""
    status = message_of(view.status)
    return (
        status is not None
        and status.phase == pb.AssignmentStatus.SETTLED
        and (status.node_uid, status.generation) == (assignment.node_uid, assignment.generation)
        and not is_partial(assignment)
        and not any(service.failed for service in status.services)
    )


def release_at(view: NodeView) -> int:
    """The release that the node runs, or is to run; 0: none, as far as is known.

    Where the assignment is lost or cannot be read, what the node has reported counts.
    """
    if view.assignment is not None and view.assignment.message is not None:
        found = assigned(view)
        return found.release if found is not None else 0
    status = message_of(view.status)
    return status.release if status is not None and status.phase != pb.AssignmentStatus.REMOVED else 0


def read_release(record: Record[pb.Release] | None, number: int, key: str) -> tuple[pb.Release | None, str]:
    """Release ``number``, or None and why it cannot be rolled out, as the beginning of a sentence."""
    if record is None:
        return None, f"release {number} cannot be rolled out: {key} does not exist"
    if record.message is None:
        return None, f"release {number} cannot be rolled out: {record.error}"
    if record.message.number != number:
        said = f"its record says that it is release {record.message.number}"
        return None, f"release {number} cannot be rolled out: {said}"
    return record.message, ""


@dataclass(frozen=True, slots=True)
class KnownReleases:
    """The releases that a plan may have to do with; None: there is none, or it cannot be read."""

    newest: pb.Release | None
    fallback: pb.Release | None
    # Why the newest, and the one to go back to, cannot be rolled out; empty if it can or there is none.
    why_not_newest: str = ""
    why_not_fallback: str = ""

    def why_not(self, course: RolloutTarget) -> str:
        """Why the target cannot be rolled out; empty if it can."""
        return self.why_not_fallback if course.going_back else self.why_not_newest

    @property
    def returns(self) -> bool:
        """Whether the newest is taken back when it fails, and there is a release that can be read to go back to."""
        return self._wants_back and self.fallback is not None

    @property
    def why_no_return(self) -> str:
        """Why it is not taken back although it should be; empty otherwise."""
        return self.why_not_fallback if self._wants_back else ""

    @property
    def _wants_back(self) -> bool:
        # Also where it says nothing: that is the documented default.
        return self.newest is not None and self.newest.rollout.on_failure != workload_pb2.RolloutPolicy.HALT

    def of(self, number: int) -> pb.Release | None:
        """Release ``number``, if it is one of them."""
        for one in (self.newest, self.fallback):
            if one is not None and one.number == number:
                return one
        return None


def known_releases(world: EnvironmentSnapshot, course: RolloutTarget, keys: Keys) -> KnownReleases:
    """What of the releases can be read."""
    newest, why = read_release(world.release, course.release, keys.release(world.ref, course.release))
    number = course.target if course.going_back else course.last_settled
    if number == 0:
        return KnownReleases(newest, None, why)
    fallback, why_not = read_release(world.fallback, number, keys.release(world.ref, number))
    return KnownReleases(newest, fallback, why, why_not)
