"""What a plan consists of: frozen data, each with its kind and its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import Stopwatch


class Kind(Enum):
    """What an action does."""

    WRITE_ROLLOUT = "write_rollout"
    DELETE_ROLLOUT = "delete_rollout"
    WRITE_ASSIGNMENT = "write_assignment"
    # Writes a tombstone.
    WITHDRAW_ASSIGNMENT = "withdraw_assignment"
    # Deletes what is left of an assignment: its key, its status, or both.
    DELETE_ASSIGNMENT = "delete_assignment"
    # Of what a node needs for an ingress besides its assignment.
    WRITE_PART = "write_part"
    DELETE_PART = "delete_part"


@dataclass(frozen=True, slots=True)
class Basis:
    """A key that must still be as it was when the plan was made; ``mod_revision`` 0: absent."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """A key to write, or to delete when ``message`` is None, provided that it is still at ``replaces`` (0: absent)."""

    key: str
    replaces: int
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan. All its changes happen in one transaction, and only if all of ``rests_on`` still holds."""

    kind: Kind
    reason: str
    changes: Sequence[Change]
    node: str = ""
    rests_on: Sequence[Basis] = ()
    # The reason is something that should not have happened.
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one environment, in this order; nothing if there are no actions.

    ``rests_on`` holds for every action. ``events`` tell of the actions. ``stopwatch`` is to be given to the next plan
    for this environment, which is to be made after ``recheck_after`` seconds (None: when something changes).
    """

    rests_on: Basis
    actions: Sequence[Action] = ()
    events: Sequence[pb.Event] = ()
    stopwatch: Stopwatch | None = None
    recheck_after: float | None = None
