"""Life of Envoy's endpoints: added, draining, removed; and which containers must not be stopped meanwhile. Pure.

The router tracks an endpoint (:class:`TrackedEndpoint`) from the first routing configuration with the endpoint. Once no
configuration has the endpoint any more, the endpoint drains, until Envoy was seen to send requests elsewhere and then
either reports no active request on it or the drain deadline has passed: no time ends a drain that has not begun in
Envoy, because it could not be told (disk full) or does not answer. Every step follows from tracked endpoints, routing
configurations and Envoy's state alone: after an interruption at any step the next agent goes on with the tracked
endpoints on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from devopsellence.nodeagent.envoy.admin import EnvoyState, UpstreamHost
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, RoutingConfig
from devopsellence.nodeagent.plan.cutover import BEING_TAKEN_OUT, SERVES
from devopsellence.store.keys import EnvironmentRef

#: Envoy's main thread reports the state, and tells the worker threads of new endpoints. After this time every request
#: that a worker had sent to an endpoint before is counted.
IDLE_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """Identity of a tracked endpoint: a container behind a port of a service."""

    ref: EnvironmentRef
    service: str
    port: str
    container: str


@dataclass(frozen=True, slots=True)
class TrackedEndpoint:
    """An endpoint with the router's knowledge of Envoy.

    ``confirmed``: Envoy uses the endpoint as configured here. For draining endpoints: ``drain_deadline``, when the
    endpoint, once confirmed, is removed regardless of requests; ``drain_seconds``, the least time that requests get
    after the confirmation if that comes after the deadline; ``active_requests`` as last reported; ``idle_since``, since
    when Envoy has reported none. Times are monotonic.
    """

    endpoint: Endpoint
    confirmed: bool = False
    drain_deadline: float = 0.0
    active_requests: int = 0
    idle_since: float | None = None
    drain_seconds: float = 0.0

    @property
    def host(self) -> str:
        """Address and port as Envoy lists them: ``10.0.0.2:3000``."""
        address = self.endpoint.address
        return f"[{address}]:{self.endpoint.port}" if ":" in address else f"{address}:{self.endpoint.port}"


TrackedEndpoints: TypeAlias = Mapping[EndpointKey, TrackedEndpoint]
#: Look up the hosts in Envoy's cluster of an environment's service and port; None if there is no such cluster.
HostsLookup: TypeAlias = Callable[[EnvironmentRef, str, str], Mapping[str, UpstreamHost] | None]


def update(
    tracked: TrackedEndpoints, ref: EnvironmentRef, config: RoutingConfig | None, drain_seconds: float, now: float
) -> dict[EndpointKey, TrackedEndpoint]:
    """Return the tracked endpoints for a new routing configuration of ``ref`` (None: not routed).

    Endpoints without a place in ``config`` drain for at most ``drain_seconds``.
    """
    desired = {
        EndpointKey(ref, backend.service, backend.port, endpoint.container): replace(endpoint, draining=False)
        for backend in (config.backends if config is not None else ())
        for endpoint in backend.endpoints
    }
    after: dict[EndpointKey, TrackedEndpoint] = {}
    for key, endpoint in tracked.items():
        if key.ref != ref or endpoint.endpoint == desired.get(key):
            after[key] = endpoint
        elif key not in desired:
            after[key] = _draining(endpoint, now, drain_seconds)
    for key, new_endpoint in desired.items():
        after.setdefault(key, TrackedEndpoint(new_endpoint))
    return after


def _draining(endpoint: TrackedEndpoint, now: float, drain_seconds: float) -> TrackedEndpoint:
    deadline = now + drain_seconds
    if endpoint.endpoint.draining:
        # An earlier deadline holds from now on; a later deadline does not extend the drain.
        shorter = min(endpoint.drain_seconds, drain_seconds)
        return replace(endpoint, drain_deadline=min(endpoint.drain_deadline, deadline), drain_seconds=shorter)
    drained = replace(endpoint.endpoint, draining=True)
    return TrackedEndpoint(drained, drain_deadline=deadline, drain_seconds=drain_seconds)


def observe(
    tracked: TrackedEndpoints, hosts: HostsLookup, now: float, *, routes_known: bool
) -> dict[EndpointKey, TrackedEndpoint]:
    """Return the tracked endpoints after reading Envoy's state, without fully drained endpoints.

    ``routes_known``: Envoy uses the newest routes; before, former routes may still send requests.
    """
    after: dict[EndpointKey, TrackedEndpoint] = {}
    for key, endpoint in tracked.items():
        cluster = hosts(key.ref, key.service, key.port)
        host = cluster.get(endpoint.host) if cluster is not None else None
        if not endpoint.endpoint.draining:
            after[key] = replace(endpoint, confirmed=host is not None and not host.draining)
            continue
        # No such host in Envoy, no requests: Envoy has just started, from files in which the endpoint drains as well.
        confirmed = routes_known and (host is None or host.draining)
        active = host.active_requests if host is not None else 0
        idle_since = (
            (endpoint.idle_since if endpoint.idle_since is not None else now) if confirmed and not active else None
        )
        if idle_since is None or now - idle_since < IDLE_SECONDS:
            late = confirmed and not endpoint.confirmed and now >= endpoint.drain_deadline
            after[key] = replace(
                endpoint,
                confirmed=confirmed,
                active_requests=active,
                idle_since=idle_since,
                drain_deadline=now + endpoint.drain_seconds if late else endpoint.drain_deadline,
            )
    return after


def without_expired(tracked: TrackedEndpoints, now: float) -> dict[EndpointKey, TrackedEndpoint]:
    """Return the tracked endpoints without those past the drain deadline that Envoy no longer sends requests to."""
    return {
        key: endpoint
        for key, endpoint in tracked.items()
        if not (endpoint.endpoint.draining and endpoint.confirmed) or now < endpoint.drain_deadline
    }


def without_unwritten(
    tracked: TrackedEndpoints, unwritten: Collection[EndpointKey]
) -> dict[EndpointKey, TrackedEndpoint]:
    """Return the tracked endpoints without draining ones that no file of Envoy's has ever had (``unwritten``)."""
    return {key: endpoint for key, endpoint in tracked.items() if not (endpoint.endpoint.draining and key in unwritten)}


def without_draining(tracked: TrackedEndpoints) -> dict[EndpointKey, TrackedEndpoint]:
    """Return the tracked endpoints while no Envoy runs: there are no requests to wait for."""
    return {key: endpoint for key, endpoint in tracked.items() if not endpoint.endpoint.draining}


def reset_confirmations(tracked: TrackedEndpoints) -> dict[EndpointKey, TrackedEndpoint]:
    """Return the tracked endpoints while Envoy's state is unknown, such as after a restart."""
    return {key: replace(endpoint, confirmed=False, idle_since=None) for key, endpoint in tracked.items()}


def held(tracked: TrackedEndpoints, ref: EnvironmentRef) -> dict[str, str]:
    """Return the containers of an environment that must not be stopped: reason by container id.

    A reason is the end of a sentence, such as "serves".
    """
    by_container: dict[str, list[TrackedEndpoint]] = {}
    for key, endpoint in sorted(tracked.items(), key=lambda item: item[0].container):
        if key.ref == ref:
            by_container.setdefault(key.container, []).append(endpoint)
    return {container: _reason(endpoints) for container, endpoints in by_container.items()}


def _reason(endpoints: Iterable[TrackedEndpoint]) -> str:
    endpoints = list(endpoints)
    if any(not endpoint.endpoint.draining for endpoint in endpoints):
        return SERVES
    if not all(endpoint.confirmed for endpoint in endpoints):
        return BEING_TAKEN_OUT
    active = sum(endpoint.active_requests for endpoint in endpoints)
    if not active:
        return "has just had its last request"
    return "1 request is under way" if active == 1 else f"{active} requests are under way"


def with_draining(config: RoutingConfig | None, ref: EnvironmentRef, tracked: TrackedEndpoints) -> RoutingConfig | None:
    """Return an environment's routing configuration for Envoy: ``config`` plus draining endpoints. None: no routing."""
    draining: dict[tuple[str, str], list[Endpoint]] = {}
    for key, endpoint in sorted(tracked.items()):
        if key.ref == ref and endpoint.endpoint.draining:
            draining.setdefault((key.service, key.port), []).append(endpoint.endpoint)
    if config is None and not draining:
        return None
    config = config or RoutingConfig(ref, (), (), ())
    backends = {(backend.service, backend.port): backend.endpoints for backend in config.backends}
    for name, endpoints in draining.items():
        backends[name] = (*backends.get(name, ()), *endpoints)
    return replace(
        config,
        backends=tuple(
            Backend(service, port, tuple(sorted(endpoints))) for (service, port), endpoints in sorted(backends.items())
        ),
    )


def next_deadline(tracked: TrackedEndpoints) -> float | None:
    """Return the earliest drain deadline of confirmed endpoints; None if there is none."""
    deadlines = (
        endpoint.drain_deadline for endpoint in tracked.values() if endpoint.endpoint.draining and endpoint.confirmed
    )
    return min(deadlines, default=None)


def any_unsettled(tracked: TrackedEndpoints) -> bool:
    """Return whether an endpoint drains, or is not confirmed by Envoy yet."""
    return any(endpoint.endpoint.draining or not endpoint.confirmed for endpoint in tracked.values())


def merge_states(state: EnvoyState, replaced: EnvoyState) -> EnvoyState:
    """Return the state of an Envoy with the active requests of the Envoy being ``replaced`` added."""
    clusters = {name: dict(hosts) for name, hosts in state.clusters.items()}
    for name, hosts in replaced.clusters.items():
        merged = clusters.setdefault(name, {})
        for address, host in hosts.items():
            newer = merged.get(address, UpstreamHost(draining=host.draining))
            merged[address] = UpstreamHost(
                newer.draining and host.draining, newer.active_requests + host.active_requests
            )
    return replace(state, clusters=clusters)
