"""State of etcd that allows the usual write of a node, as compares of the write itself instead of a read before. Pure.

An agent nearly always writes new events and statuses about environments that are assigned to it. A decision under that
assumption is never stricter than under any other state, so a write that is refused then would be refused anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.policy import MOST_TXN_OPERATIONS
from devopsellence.controller.gateway.rules.records import kind_name
from devopsellence.controller.gateway.rules.reports import Facts, NeededFacts
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.keys import Keys


@dataclass(frozen=True)
class Guards:
    """Keys that must exist, and keys that must not."""

    present: frozenset[str]
    absent: frozenset[str]

    @property
    def facts(self) -> Facts:
        return Facts({**dict.fromkeys(self.present, b""), **dict.fromkeys(self.absent)})

    def compares(self) -> list[rpc.Compare]:
        return [
            rpc.Compare(result=result, target=rpc.Compare.CREATE, key=key.encode(), create_revision=0)
            for result, keys in ((rpc.Compare.NOT_EQUAL, self.present), (rpc.Compare.EQUAL, self.absent))
            for key in sorted(keys)
        ]


def guards_of(caller: Caller, keys: Keys, needed: NeededFacts) -> Guards | None:
    """Return what the usual write of a node requires of etcd; None if the decision needs a read."""
    by_kind: dict[str, set[str]] = {"assignments": set(), "events": set(), "status": set()}
    for key in needed.stored:
        if (found := by_kind.get(kind_name(keys, key))) is None:
            return None
        found.add(key)
    guards = Guards(frozenset(by_kind["assignments"]), frozenset(by_kind["events"]))
    count = len(guards.present) + len(guards.absent)
    return guards if caller.role is Role.NODE and 0 < count <= MOST_TXN_OPERATIONS else None
