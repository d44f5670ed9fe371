"""Plan of writes to etcd for one environment: frozen data, each action with a kind and a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import ProgressStopwatch


class WriteKind(Enum):
    """Kinds of actions."""

    WRITE_ROLLOUT = "write_rollout"
    DELETE_ROLLOUT = "delete_rollout"
    WRITE_ASSIGNMENT = "write_assignment"
    #: Write a tombstone.
    WITHDRAW_ASSIGNMENT = "withdraw_assignment"
    #: Delete the rest of an assignment: its key, its status, or both.
    DELETE_ASSIGNMENT = "delete_assignment"
    #: Write or delete an ingress part of a node: a certificate, challenges or peers.
    WRITE_PART = "write_part"
    DELETE_PART = "delete_part"
    #: Create or delete the claim of a host on a node.
    CLAIM_HOST = "claim_host"
    RELEASE_HOST = "release_host"


@dataclass(frozen=True, slots=True)
class Precondition:
    """A key that must not have changed since the plan was made; ``mod_revision`` 0: absent."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key to write, or to delete if ``message`` is None, as long as its revision is ``replaces`` (0: absent)."""

    key: str
    replaces: int
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class WriteAction:
    """Action of a plan: all changes in one transaction, provided that all of ``rests_on`` still holds."""

    kind: WriteKind
    reason: str
    changes: Sequence[KeyChange]
    node: str = ""
    rests_on: Sequence[Precondition] = ()
    #: The reason is something that should not have happened.
    warning: bool = False


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """Actions for one environment, in order; empty if there is nothing to do.

    ``rests_on`` applies to every action. ``events`` report the actions. The next plan of this environment needs
    ``stopwatch`` and is due after ``recheck_after`` seconds (None: only after a change).
    """

    rests_on: Precondition
    actions: Sequence[WriteAction] = ()
    events: Sequence[pb.Event] = ()
    stopwatch: ProgressStopwatch | None = None
    recheck_after: float | None = None
