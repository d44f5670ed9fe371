"""Reports of nodes: statuses and events are about environments that are assigned to the node. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.grants import text_of
from devopsellence.controller.gateway.rules.records import is_compared_with_stored, kind_name
from devopsellence.controller.gateway.rules.refusal import denied
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.keys import EnvironmentRef, Keys

#: Statuses of a node for environments without an assignment on it, such as after etcd was restored.
UNASSIGNED_STATUSES: Final = 50


@dataclass(frozen=True)
class Facts:
    """State of etcd, as far as a decision needs it, see :func:`needed_facts`."""

    #: Values by key; None for a key that does not exist.
    stored: Mapping[str, bytes | None] = field(default_factory=dict)
    #: Number of statuses of the node that calls.
    statuses: int = 0

    def has(self, key: str) -> bool:
        return self.stored.get(key) is not None


@dataclass(frozen=True)
class NeededFacts:
    """Keys to look up before a decision; ``count_statuses``: also the number of the node's statuses."""

    stored: frozenset[str] = frozenset()
    count_statuses: bool = False


def needed_facts(caller: Caller, keys: Keys, puts: Sequence[rpc.PutRequest], known: set[str]) -> NeededFacts:
    """Return what has to be looked up before a decision on writes.

    ``known``: keys of statuses that the node has written before, and that need no look.
    """
    if caller.is_trusted:
        return NeededFacts()
    wanted: set[str] = set()
    count = False
    for key in (text_of(put.key) for put in puts):
        if is_compared_with_stored(keys, key):
            wanted.add(key)
        ref = _environment_of_report(caller, keys, key)
        if ref is not None and key not in known:
            wanted.add(keys.assignment(caller.name, ref))
            if _is_status(keys, key):
                wanted.add(key)
                count = True
    return NeededFacts(frozenset(wanted), count)


def check_reports(caller: Caller, keys: Keys, puts: Sequence[rpc.PutRequest], facts: Facts, known: set[str]) -> None:
    """Check that a node reports about environments that are assigned to it, but for a few statuses.

    Raises:
        Refused: an event is about another environment, or the node would have too many statuses of others.
    """
    unassigned: set[str] = set()
    for key in (text_of(put.key) for put in puts):
        ref = _environment_of_report(caller, keys, key)
        if ref is None or key in known or facts.has(keys.assignment(caller.name, ref)):
            continue
        if _is_status(keys, key):
            if facts.has(key):
                continue
            unassigned.add(key)
            if facts.statuses + len(unassigned) <= UNASSIGNED_STATUSES:
                continue
        raise denied(f"{key}: {ref} is not assigned to node {caller.name}")


def statuses_in(caller: Caller, keys: Keys, puts: Sequence[rpc.PutRequest]) -> set[str]:
    """Return the keys of the statuses that a node's writes report."""
    written = (text_of(put.key) for put in puts) if caller.role is Role.NODE else ()
    return {key for key in written if _is_status(keys, key)}


def _is_status(keys: Keys, key: str) -> bool:
    return kind_name(keys, key) == "status"


def _environment_of_report(caller: Caller, keys: Keys, key: str) -> EnvironmentRef | None:
    """Return the environment that an event or a status of the calling node is about; None for other keys."""
    if caller.role is not Role.NODE:
        return None
    try:
        match kind_name(keys, key):
            case "status":
                node, ref = keys.parse_assignment(key)
                return ref if node == caller.name else None
            case "events":
                return keys.parse_event(key)[0]
            case _:
                return None
    except ValueError:
        return None
