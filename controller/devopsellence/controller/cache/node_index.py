"""Which environments a node concerns, and which nodes an environment concerns. Pure.

Kept up to date with each change, so that what a change costs does not depend on how many nodes or environments there
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Flag, auto
from typing import TypeVar

from devopsellence.store.keys import EnvironmentRef

K = TypeVar("K")
V = TypeVar("V")


class Tie(Flag):
    """What ties a node to an environment."""

    ATTACHED = auto()
    ASSIGNMENT = auto()
    STATUS = auto()
    # There is a part of an ingress for the node.
    INGRESS = auto()


class Index:
    """Ties between nodes and environments, both ways."""

    def __init__(self) -> None:
        # A pair is here as long as at least one tie is left; the two maps below hold the same pairs.
        self._ties: dict[tuple[EnvironmentRef, str], Tie] = {}
        self._nodes_of: dict[EnvironmentRef, set[str]] = {}
        self._environments_of: dict[str, set[EnvironmentRef]] = {}
        # Nodes of an environment, sorted; absent where they have changed since they were asked for.
        self._sorted: dict[EnvironmentRef, list[str]] = {}

    def attach(self, ref: EnvironmentRef, nodes: Iterable[str]) -> None:
        """``nodes`` are now those attached to ``ref``."""
        wanted = frozenset(nodes)
        for node in self.nodes_of(ref):
            if node not in wanted:
                self.set(ref, node, Tie.ATTACHED, present=False)
        for node in wanted:
            self.set(ref, node, Tie.ATTACHED, present=True)

    def set(self, ref: EnvironmentRef, node: str, tie: Tie, *, present: bool) -> None:
        """The ``tie`` between ``ref`` and ``node`` is there or not."""
        pair = (ref, node)
        before = self._ties.get(pair, Tie(0))
        after = before | tie if present else before & ~tie
        if after == before:
            return
        if not (before and after):
            self._sorted.pop(ref, None)
        if after:
            self._ties[pair] = after
            self._nodes_of.setdefault(ref, set()).add(node)
            self._environments_of.setdefault(node, set()).add(ref)
            return
        del self._ties[pair]
        _discard(self._nodes_of, ref, node)
        _discard(self._environments_of, node, ref)

    def nodes_of(self, ref: EnvironmentRef) -> Sequence[str]:
        """The nodes that ``ref`` has a tie to, sorted; the same object for as long as they are the same."""
        if ref not in self._nodes_of:
            return []
        if ref not in self._sorted:
            self._sorted[ref] = sorted(self._nodes_of[ref])
        return self._sorted[ref]

    def count_of(self, ref: EnvironmentRef) -> int:
        """How many nodes ``ref`` has a tie to."""
        return len(self._nodes_of.get(ref, ()))

    def environments_of(self, node: str) -> list[EnvironmentRef]:
        """The environments that ``node`` has a tie to, sorted."""
        return sorted(self._environments_of.get(node, ()))

    def environments(self) -> list[EnvironmentRef]:
        """Every environment that has a tie to a node, sorted."""
        return sorted(self._nodes_of)


def _discard(sets: dict[K, set[V]], key: K, value: V) -> None:
    """Remove ``value`` from the set at ``key``, and the set once it is empty."""
    sets[key].discard(value)
    if not sets[key]:
        del sets[key]
