"""Snapshot of one environment as the caches show it: the input of ``plan``. Never stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import Record, message_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProgressStopwatch:
    """Time since a rollout last made progress, for its progress deadline. A new leader starts again at zero.

    ``newest`` is the number of the newest release, ``target`` the number of the release to run. ``progress`` is
    the largest number of started services, settled services and settled nodes observed at the target so far, ``since``
    the monotonic second of that observation. ``paused``: the stopwatch stood still until now, because the release task
    was running or only older containers were waited for.
    """

    newest: int
    target: int
    progress: int
    since: float
    paused: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything stored about one node in one environment. None: the key does not exist."""

    name: str
    node: Record[pb.Node] | None = None
    heartbeat: Record[pb.Heartbeat] | None = None
    assignment: Record[pb.Assignment] | None = None
    status: Record[pb.AssignmentStatus] | None = None
    #: Ingress parts of the node besides its assignment; by name of the part: a host, or keys.PEERS.
    parts: Mapping[str, Record[pb.NodeIngress]] = field(default_factory=dict)
    #: Claims of hosts on the node, of any environment; by host.
    claims: Mapping[str, Record[pb.HostClaim]] = field(default_factory=dict)
    #: Results worked out from this view alone, see recall(). They vanish with the view when anything of it changes.
    notes: dict[str, tuple[tuple[object, ...], Any]] = field(default_factory=dict, compare=False, repr=False)

    def recall(self, topic: str, inputs: tuple[object, ...], work_out: Callable[[], T]) -> T:
        """Return the result of ``work_out``, from the last call for ``topic`` if ``inputs`` were equal then.

        ``work_out`` may depend on this view and on ``inputs`` only. The caches keep a view until something about its
        node changes, so the cost of a plan is in proportion to the changes.
        """
        known = self.notes.get(topic)
        if known is not None and known[0] == inputs:
            remembered: T = known[1]
            return remembered
        result = work_out()
        self.notes[topic] = (inputs, result)
        return result

    @property
    def is_reachable(self) -> bool:
        """Return whether the agent of the registered machine has a heartbeat, and a Docker Engine.

        True if a record cannot be read.
        """
        if self.node is None or self.heartbeat is None:
            return False
        node, heartbeat = self.node.message, self.heartbeat.message
        if node is None or heartbeat is None:
            return True
        return heartbeat.uid == node.uid and not heartbeat.without_engine

    @property
    def current_assignment(self) -> pb.Assignment | None:
        """Return the assignment of the node, unless it is a tombstone or cannot be read."""
        assignment = message_of(self.assignment)
        return assignment if assignment is not None and not assignment.removed else None

    @property
    def current_release(self) -> int:
        """Return the number of the release that the node runs or is to run; 0 for none, as far as is known.

        Without a readable assignment, the release that the node reports counts.
        """
        if message_of(self.assignment) is not None:
            assignment = self.current_assignment
            return assignment.release if assignment is not None else 0
        status = message_of(self.status)
        return status.release if status is not None and status.phase != pb.AssignmentStatus.REMOVED else 0

    def has_settled(self, assignment: pb.Assignment) -> bool:
        """Return whether the last report of the node says that all of ``assignment``, a whole one, had settled.

        The node may be unreachable by now.
        """
        status = message_of(self.status)
        return (
            status is not None
            and status.phase == pb.AssignmentStatus.SETTLED
            and (status.node_uid, status.generation) == (assignment.node_uid, assignment.generation)
            and not is_partial(assignment)
            and not any(service.failed for service in status.services)
        )


@dataclass(frozen=True, slots=True)
class EnvironmentSnapshot:
    """Everything stored about one environment.

    ``release`` is the record of the newest release of the environment, ``fallback`` the record of release
    ``fallback_number``; None if the key does not exist. ``nodes`` are the attached nodes and all nodes with an
    assignment, a status or an ingress part, sorted by name. ``secrets`` are by service and name. ``certificates`` are
    by host: the same mapping object for as long as no certificate changes. ``served_hosts``: by node and environment,
    the hosts in all assignments, also of other environments.
    """

    ref: EnvironmentRef
    environment: Record[pb.Environment] | None = None
    release: Record[pb.Release] | None = None
    rollout: Record[pb.Rollout] | None = None
    nodes: Sequence[NodeView] = ()
    stopwatch: ProgressStopwatch | None = None
    secrets: Mapping[tuple[str, str], Record[pb.Secret]] = field(default_factory=dict)
    #: Unreachable nodes by name, with the monotonic second at which this controller first saw no heartbeat.
    unreachable_since: Mapping[str, float] = field(default_factory=dict)
    fallback: Record[pb.Release] | None = None
    certificates: Mapping[str, Record[pb.Certificate]] = field(default_factory=dict)
    served_hosts: Mapping[str, Mapping[EnvironmentRef, frozenset[str]]] = field(default_factory=dict, compare=False)

    @property
    def fallback_number(self) -> int:
        """Return the number of the release, besides the newest, whose record a plan needs; 0 for none."""
        environment = message_of(self.environment)
        if environment is None or environment.latest_release == 0:
            return 0
        newest = environment.latest_release
        rollout = message_of(self.rollout)
        if rollout is not None and rollout.release == newest and rollout.target not in (0, newest):
            return rollout.target
        return self.last_settled(newest)

    def last_settled(self, number: int) -> int:
        """Return the newest release before ``number`` that is known to have settled; 0 for none.

        A release that was superseded within its first minute counts if nothing of it had failed. Without a record of
        the rollouts, assignments and statuses tell.
        """
        rollout = message_of(self.rollout)
        if rollout is None:
            return _settled_by_assignments(self.nodes, number)
        settled = [outcome.release for outcome in rollout.history if outcome.phase == pb.Rollout.SETTLED]
        settled.append(rollout.last_settled)
        if rollout.phase == pb.Rollout.SETTLED and not (rollout.provisional and rollout.first_failure):
            settled.append(rollout.release)
        return max((release for release in settled if release < number), default=0)


def is_partial(assignment: pb.Assignment) -> bool:
    """Return whether ``assignment`` is the start of a release with a task, and not all of the release."""
    return assignment.HasField("task") or assignment.HasField("task_service")


def _settled_by_assignments(views: Iterable[NodeView], number: int) -> int:
    """Return what :meth:`EnvironmentSnapshot.last_settled` does without a record of the rollouts.

    A release that all nodes have, and report as settled, has settled. Otherwise an assignment tells: it names the
    release to return to. Only if none does, the settled release reported by most nodes counts, unless a node reports
    that it has not settled there.
    """
    settled = [
        (assignment.release, assignment.last_settled, view.has_settled(assignment))
        for view in views
        if (assignment := view.current_assignment) is not None
    ]
    releases = {release for release, _, _ in settled}
    if len(releases) == 1 and max(releases) < number and all(done for _, _, done in settled):
        return max(releases)
    if recorded := max((earlier for _, earlier, _ in settled if earlier < number), default=0):
        return recorded
    unsettled = {release for release, _, done in settled if not done}
    counts = Counter(release for release, _, done in settled if done and release < number)
    return max(counts.keys() - unsettled, key=lambda release: (counts[release], release), default=0)
