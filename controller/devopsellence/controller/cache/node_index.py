"""Index of nodes by environment and of environments by node. Pure.

The index is kept up to date with each change, so the cost of a change does not depend on the number of nodes or
environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Flag, auto
from typing import TypeVar

from devopsellence.store.keys import EnvironmentRef

K = TypeVar("K")
V = TypeVar("V")


class NodeTie(Flag):
    """Kinds of ties between a node and an environment."""

    ATTACHED = auto()
    ASSIGNMENT = auto()
    STATUS = auto()
    #: The node has an ingress part.
    INGRESS = auto()
    #: The environment has claimed a host on the node.
    CLAIM = auto()


class NodeIndex:
    """Ties between nodes and environments, in both directions."""

    def __init__(self) -> None:
        # Pairs with at least one tie; the two mappings below contain the same pairs.
        self._ties: dict[tuple[EnvironmentRef, str], NodeTie] = {}
        self._nodes_of: dict[EnvironmentRef, set[str]] = {}
        self._environments_of: dict[str, set[EnvironmentRef]] = {}
        # Sorted nodes of an environment; absent if changed since the last nodes_of().
        self._sorted: dict[EnvironmentRef, list[str]] = {}

    def attach(self, ref: EnvironmentRef, nodes: Iterable[str]) -> None:
        """Set the nodes attached to ``ref``."""
        attached = frozenset(nodes)
        for node in self.nodes_of(ref):
            if node not in attached:
                self.set(ref, node, NodeTie.ATTACHED, present=False)
        for node in attached:
            self.set(ref, node, NodeTie.ATTACHED, present=True)

    def set(self, ref: EnvironmentRef, node: str, tie: NodeTie, *, present: bool) -> None:
        """Add (``present``) or remove ``tie`` between ``ref`` and ``node``."""
        pair = (ref, node)
        before = self._ties.get(pair, NodeTie(0))
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
        """Return the sorted nodes with a tie to ``ref``, the same object until the nodes change."""
        if ref not in self._nodes_of:
            return []
        if ref not in self._sorted:
            self._sorted[ref] = sorted(self._nodes_of[ref])
        return self._sorted[ref]

    def count_of(self, ref: EnvironmentRef) -> int:
        """Return the number of nodes with a tie to ``ref``."""
        return len(self._nodes_of.get(ref, ()))

    def environments_of(self, node: str) -> list[EnvironmentRef]:
        """Return the sorted environments with a tie to ``node``."""
        return sorted(self._environments_of.get(node, ()))

    def environments(self) -> list[EnvironmentRef]:
        """Return all environments with a tie to a node, sorted."""
        return sorted(self._nodes_of)


def _discard(sets: dict[K, set[V]], key: K, value: V) -> None:
    """Remove ``value`` from the set at ``key``, and the set if empty."""
    sets[key].discard(value)
    if not sets[key]:
        del sets[key]
