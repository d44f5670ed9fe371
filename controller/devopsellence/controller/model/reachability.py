"""Unreachable nodes of each environment, with the time since when this controller has seen no heartbeat.

The clocks of two machines are never compared, so a new leader starts counting again.
"""

from __future__ import annotations

from collections.abc import Mapping

from devopsellence.clock import Now
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.store.keys import EnvironmentRef


class UnreachableSince:
    """Start of the unreachability of nodes, kept from one plan of an environment to the next."""

    def __init__(self) -> None:
        self._since: dict[EnvironmentRef, dict[str, float]] = {}

    def note(self, snapshot: EnvironmentSnapshot, now: Now) -> Mapping[str, float]:
        """Return the unreachable nodes of ``snapshot`` by name, with the monotonic second of the first sighting."""
        before = self._since.pop(snapshot.ref, {})
        since = {view.name: before.get(view.name, now.mono) for view in snapshot.nodes if not view.is_reachable}
        if since:
            self._since[snapshot.ref] = since
        return since
