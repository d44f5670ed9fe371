"""Node views of each environment, cached from one plan to the next. Pure.

A :class:`NodeView` stays the same object until a record of its node and environment changes. So the cost of a plan is
in proportion to the changes, and results worked out from a view can be cached with the view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from devopsellence.controller.model.snapshot import NodeView
from devopsellence.store.keys import EnvironmentRef


@dataclass(slots=True)
class _CachedViews:
    """``views`` of the nodes ``names``, in the same order; views of the names in ``stale`` are out of date."""

    names: Sequence[str]
    views: list[NodeView]
    positions: dict[str, int]
    stale: set[str] = field(default_factory=set)


class NodeViews:
    """Node views by environment; ``build`` makes a view from the caches."""

    def __init__(self, build: Callable[[EnvironmentRef, str], NodeView]) -> None:
        self._build = build
        self._cached: dict[EnvironmentRef, _CachedViews] = {}

    def touch(self, ref: EnvironmentRef, node: str) -> None:
        """Mark the view of ``node`` in ``ref`` as out of date."""
        cached = self._cached.get(ref)
        if cached is not None and node in cached.positions:
            cached.stale.add(node)

    def of(self, ref: EnvironmentRef, names: Sequence[str]) -> Sequence[NodeView]:
        """Return the views of ``names``. Callers must not change the sequence: the same object means the same names."""
        cached = self._cached.get(ref)
        if cached is None or cached.names is not names:
            # A node that left and returned may have changed unnoticed in between, so nothing is reused.
            cached = _CachedViews(
                names,
                [self._build(ref, name) for name in names],
                {name: position for position, name in enumerate(names)},
            )
            if names:
                self._cached[ref] = cached
            else:
                self._cached.pop(ref, None)
        for name in cached.stale:
            cached.views[cached.positions[name]] = self._build(ref, name)
        cached.stale.clear()
        return tuple(cached.views)
