"""The nodes of each environment as the planner sees them, kept from one plan to the next. Pure.

A :class:`NodeView` stays the same object for as long as nothing that is stored about its node and environment changes.
So a plan costs as much as has changed, and what was worked out from a view may be kept for as long as the view is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from devopsellence.controller.model.snapshot import NodeView
from devopsellence.store.keys import EnvironmentRef


@dataclass(slots=True)
class _Kept:
    """``views`` are those of ``names``, in that order; of the names in ``stale`` they are out of date."""

    names: Sequence[str]
    views: list[NodeView]
    places: dict[str, int]
    stale: set[str] = field(default_factory=set)


class Views:
    """``build`` makes a view from what is stored now."""

    def __init__(self, build: Callable[[EnvironmentRef, str], NodeView]) -> None:
        self._build = build
        self._kept: dict[EnvironmentRef, _Kept] = {}

    def touch(self, ref: EnvironmentRef, node: str) -> None:
        """Something about ``node`` or its part in ``ref`` has changed."""
        kept = self._kept.get(ref)
        if kept is not None and node in kept.places:
            kept.stale.add(node)

    def of(self, ref: EnvironmentRef, names: Sequence[str]) -> Sequence[NodeView]:
        """The views of ``names``. The same sequence means the same names, so it may not be changed by the caller."""
        kept = self._kept.get(ref)
        if kept is None or kept.names is not names:
            # A node that has left and come back may have changed unnoticed in between: nothing is taken over.
            kept = _Kept(
                names,
                [self._build(ref, name) for name in names],
                {name: place for place, name in enumerate(names)},
            )
            if names:
                self._kept[ref] = kept
            else:
                self._kept.pop(ref, None)
        for name in kept.stale:
            kept.views[kept.places[name]] = self._build(ref, name)
        kept.stale.clear()
        return tuple(kept.views)
