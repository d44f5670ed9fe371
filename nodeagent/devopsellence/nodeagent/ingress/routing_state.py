"""Routing configurations and endpoints of a node, and which of them Envoy's files do not have yet. Pure.

A configuration counts as written only if it was there when the write began: whatever is set meanwhile stays to be
written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from devopsellence.clock import Now
from devopsellence.nodeagent.envoy import endpoints
from devopsellence.nodeagent.envoy.endpoints import EndpointKey, TrackedEndpoint
from devopsellence.nodeagent.envoy.files import RoutingSnapshot, snapshot_to_bytes
from devopsellence.nodeagent.envoy.model import DEFAULT_DRAIN_SECONDS, NodeRouting, RoutingConfig
from devopsellence.nodeagent.ingress.routing import resolve_host_conflicts
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True, slots=True)
class RoutingWrite:
    """A write of Envoy's files under way.

    ``dirty``: the environments to be written. ``removed``: those of them that are no longer routed. ``attempted``:
    endpoints that no file had before.
    """

    dirty: frozenset[EnvironmentRef]
    removed: frozenset[EnvironmentRef]
    configs: Mapping[EnvironmentRef, RoutingConfig | None]
    endpoints: Mapping[EndpointKey, TrackedEndpoint]
    attempted: frozenset[EndpointKey]

    def snapshots(self, now: Now) -> dict[EnvironmentRef, bytes | None]:
        """Return the snapshots to be written; None removes the snapshot."""
        return {
            ref: None if ref in self.removed else snapshot_to_bytes(ref, self.configs.get(ref), self.endpoints, now)
            for ref in self.dirty
        }


class RoutingState:
    """State of the routing of one node. Times are monotonic, in seconds.

    ``configs``: by environment; None while its endpoints drain. ``endpoints``: tracked ones. ``changes``: number of
    changes of ``configs`` so far.
    """

    def __init__(self) -> None:
        self.configs: dict[EnvironmentRef, RoutingConfig | None] = {}
        self.endpoints: dict[EndpointKey, TrackedEndpoint] = {}
        self.changes = 0
        #: Endpoints that no file of Envoy's has had so far.
        self._unwritten: set[EndpointKey] = set()
        self._dirty: set[EnvironmentRef] = set()
        self._writing: frozenset[EnvironmentRef] = frozenset()

    @property
    def is_dirty(self) -> bool:
        """Return whether anything is to be written."""
        return bool(self._dirty)

    @property
    def environments(self) -> set[EnvironmentRef]:
        return {*self.configs, *(key.ref for key in self.endpoints)}

    def is_pending(self, ref: EnvironmentRef) -> bool:
        """Return whether an environment is to be written, or is being written."""
        return ref in self._dirty or ref in self._writing

    def load(self, snapshots: Iterable[RoutingSnapshot]) -> None:
        """Add what the last agent has written."""
        for ref, config, tracked in snapshots:
            self.configs[ref] = config
            self.endpoints.update(tracked)

    def set_config(self, ref: EnvironmentRef, config: RoutingConfig | None, now: float, *, may_be_known: bool) -> bool:
        """Set the configuration of an environment; return whether it changed.

        ``may_be_known``: Envoy may have endpoints of it from files that this agent has not written.
        """
        if ref in self.configs and self.configs[ref] == config:
            return False
        before = self.configs.get(ref)
        if config is None and before is None and not self._has_endpoints(ref):
            self.configs.pop(ref, None)
            return False
        limits = config or before
        drain_seconds = limits.drain_seconds if limits is not None else DEFAULT_DRAIN_SECONDS
        self.configs[ref] = config
        after = endpoints.update(self.endpoints, ref, config, drain_seconds, now)
        if not may_be_known:
            self._unwritten |= after.keys() - self.endpoints.keys()
        self.endpoints = endpoints.without_unwritten(after, self._unwritten)
        self._unwritten &= self.endpoints.keys()
        self._dirty.add(ref)
        self.changes += 1
        return True

    def routing(self) -> tuple[NodeRouting, Mapping[EnvironmentRef, str]]:
        """Return the routing of all environments, with draining endpoints, and the conflicts in it."""
        configs = [endpoints.with_draining(self.configs.get(ref), ref, self.endpoints) for ref in self.environments]
        return resolve_host_conflicts(config for config in configs if config is not None)

    def unconfirmed(self) -> frozenset[EnvironmentRef]:
        """Return the environments with an endpoint that Envoy does not use yet."""
        return frozenset(
            key.ref
            for key, endpoint in self.endpoints.items()
            if not endpoint.endpoint.draining and not endpoint.confirmed
        )

    def begin_write(self) -> RoutingWrite:
        """Begin to write everything that is to be written; :meth:`end_write` or :meth:`abandon_write` follows."""
        self._writing, self._dirty = frozenset(self._dirty), set()
        # From now on a file may have them.
        attempted = frozenset(self._unwritten & self.endpoints.keys())
        self._unwritten -= attempted
        removed = frozenset(
            ref for ref in self._writing if self.configs.get(ref) is None and not self._has_endpoints(ref)
        )
        return RoutingWrite(self._writing, removed, dict(self.configs), dict(self.endpoints), attempted)

    def end_write(self, write: RoutingWrite) -> None:
        """Note that a write has ended."""
        self._writing = frozenset()
        for ref in write.removed & self.configs.keys() - self._dirty:
            del self.configs[ref]

    def abandon_write(self, write: RoutingWrite, written: Iterable[EndpointKey]) -> None:
        """Note that a write has failed, after it had written the files of the endpoints ``written``."""
        self._writing = frozenset()
        self._dirty |= write.dirty
        self._unwritten |= (write.attempted - set(written)) & self.endpoints.keys()
        self.endpoints = endpoints.without_unwritten(self.endpoints, self._unwritten)

    def release(self, after: dict[EndpointKey, TrackedEndpoint]) -> set[EndpointKey]:
        """Replace the tracked endpoints, and return those that are gone, whose environments are to be written."""
        drained = self.endpoints.keys() - after.keys()
        self._dirty |= {key.ref for key in drained}
        self.endpoints = after
        return drained

    def _has_endpoints(self, ref: EnvironmentRef) -> bool:
        return any(key.ref == ref for key in self.endpoints)
