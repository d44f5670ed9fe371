"""Since when nodes do not answer, as this controller has seen it.

The clocks of two machines are never compared, so a new leader counts anew.
"""

from __future__ import annotations

from collections.abc import Mapping

from devopsellence.controller.model.snapshot import Moment, NodeView, World
from devopsellence.store.keys import EnvironmentRef


def answers(view: NodeView) -> bool:
    """Whether the agent of the machine that is registered as this node is there; in doubt it is."""
    if view.node is None or view.heartbeat is None:
        return False
    node, heartbeat = view.node.message, view.heartbeat.message
    return node is None or heartbeat is None or heartbeat.uid == node.uid


class Silences:
    """The nodes of each environment that do not answer."""

    def __init__(self) -> None:
        self._since: dict[EnvironmentRef, dict[str, float]] = {}

    def note(self, world: World, now: Moment) -> Mapping[str, float]:
        """The monotonic second since when each silent node of ``world`` has been seen to be silent, by name."""
        before = self._since.pop(world.ref, {})
        found = {view.name: before.get(view.name, now.monotonic) for view in world.nodes if not answers(view)}
        if found:
            self._since[world.ref] = found
        return found
