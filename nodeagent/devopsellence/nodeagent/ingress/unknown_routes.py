"""Environments whose routes Envoy has, but the agent does not know: writing Envoy's files would remove them. Pure.

A snapshot that cannot be read makes the routes of its environment unknown until its routing is set. Without any
snapshot the node is new, or its folder was lost. In a lost folder the routes of every environment are unknown, and the
agent does not even know which environments there are before etcd has listed its assignments; Envoy goes on meanwhile
with what it has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from devopsellence.nodeagent.envoy.model import RoutingConfig
from devopsellence.store.keys import EnvironmentRef

#: After a lost folder: longest wait for the first probes of an environment, without which no container gets requests.
PROBE_SECONDS: Final = 10.0


class UnknownRoutes:
    """Unknown routes of one node. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._refs: set[EnvironmentRef] = set()
        self._lost = False
        self._listed = False
        #: Environments without an endpoint so far: time until which probes are waited for, once for a lost folder.
        self._probed: dict[EnvironmentRef, float] = {}

    def loaded(self, readable: Collection[EnvironmentRef], unreadable: Collection[EnvironmentRef]) -> None:
        """Note the environments with a snapshot on disk."""
        self._refs = set(unreadable)
        self._lost = not readable and not unreadable

    def listed(self, assigned: Collection[EnvironmentRef], routed: Collection[EnvironmentRef]) -> None:
        """Note the first list of assignments: there are no other environments. ``routed``: their routing is set."""
        self._listed = True
        self._refs = set(assigned) - set(routed) if self._lost else self._refs & set(assigned)

    def routing_set(self, ref: EnvironmentRef, config: RoutingConfig | None, now: float) -> None:
        """Note the routing of an environment; after a lost folder, one without endpoints may be too early."""
        self._refs.discard(ref)
        if self._lost and config is not None and not all(backend.endpoints for backend in config.backends):
            self._probed.setdefault(ref, now + PROBE_SECONDS)
        else:
            self._probed.pop(ref, None)

    def written(self) -> None:
        """Note that Envoy's files were written: from now on a snapshot of everything is on disk."""
        if self._lost:
            self._lost = False
            self._refs.clear()
            self._probed.clear()

    def next_deadline(self, now: float) -> float | None:
        """Return when the next wait for probes ends; None if nothing is waited for."""
        return min((until for until in self._probed.values() if until > now), default=None)

    def exist(self, *, envoy_runs: bool, now: float) -> bool:
        """Return whether Envoy may have routes that are unknown."""
        if not self._lost:
            return bool(self._refs)
        return envoy_runs and (bool(self._refs) or self.next_deadline(now) is not None or not self._listed)

    def __str__(self) -> str:
        if self._lost and not self._listed:
            return "the router's files are missing: changes wait for the assignments in etcd"
        names = ", ".join(sorted(map(str, {*self._refs, *self._probed})))
        return f"the router's file of {names} is damaged or missing: changes wait for its assignment" if names else ""
