"""What the pure parts are given: one environment as the caches show it, and the time. Nothing here is ever stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import Record

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Moment:
    """One reading of both clocks.

    ``wall`` (with a time zone) is only ever written down; ``monotonic`` (seconds) is what intervals are measured with,
    because the wall clocks of two controllers are never compared.
    """

    wall: datetime
    monotonic: float


@dataclass(frozen=True, slots=True)
class ProgressStopwatch:
    """How long a rollout has made no progress, for the progress deadline. Begins anew with a new leader.

    ``release`` is the newest, ``target`` what is to run. ``settled`` is the largest number of services and nodes that
    were seen to have settled at the target so far; ``since`` the monotonic second when it was reached. ``paused``: it
    stood until now, because the release task was running.
    """

    release: int
    target: int
    settled: int
    since: float
    paused: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """All that is stored about one node and one environment. None: there is no such key."""

    name: str
    node: Record[pb.Node] | None = None
    heartbeat: Record[pb.Heartbeat] | None = None
    assignment: Record[pb.Assignment] | None = None
    status: Record[pb.AssignmentStatus] | None = None
    # What the node was given besides for its ingress, by part: a host, or keys.PEERS.
    parts: Mapping[str, Record[pb.NodeIngress]] = field(default_factory=dict)
    # What was worked out from this view alone, see recall(). Gone with the view when anything of it changes.
    notes: dict[str, tuple[tuple[object, ...], Any]] = field(default_factory=dict, compare=False, repr=False)

    def recall(self, what: str, given: tuple[object, ...], work_out: Callable[[], T]) -> T:
        """What ``work_out`` answers, which depends on this view and on ``given`` only: asked once in a row for both.

        The caches keep a view until something about it changes, so that a plan costs as much as has changed.
        """
        known = self.notes.get(what)
        if known is not None and known[0] == given:
            found: T = known[1]
            return found
        made = work_out()
        self.notes[what] = (given, made)
        return made


@dataclass(frozen=True, slots=True)
class EnvironmentSnapshot:
    """All that is stored about one environment.

    ``release`` is the record of the release that the environment names as its newest, ``fallback`` of the one that
    ``course.fallback_number()`` names; None when there is no such key.
    ``nodes`` are those attached and those that still have an assignment, a status or a part of an ingress, sorted by
    name. ``secrets`` are by service and name. ``certificates`` are by host: the same mapping for as long as none of
    them changes.
    """

    ref: EnvironmentRef
    environment: Record[pb.Environment] | None = None
    release: Record[pb.Release] | None = None
    rollout: Record[pb.Rollout] | None = None
    nodes: Sequence[NodeView] = ()
    stopwatch: ProgressStopwatch | None = None
    secrets: Mapping[tuple[str, str], Record[pb.Secret]] = field(default_factory=dict)
    # Nodes without a heartbeat, with the monotonic second since when this controller has seen none.
    silent_since: Mapping[str, float] = field(default_factory=dict)
    fallback: Record[pb.Release] | None = None
    certificates: Mapping[str, Record[pb.Certificate]] = field(default_factory=dict)
