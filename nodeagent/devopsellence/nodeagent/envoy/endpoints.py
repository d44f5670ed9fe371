"""Which endpoints Envoy is given, which it has yet to let go of, and what may not be stopped meanwhile. Pure.

An endpoint is a :class:`Place`. It comes when a site wants it, is drained when no site wants it any more, and goes when
Envoy was seen to have no request on it, or at its limit. Every step is derived from places, wishes and what was seen:
an agent that was cut off anywhere goes on with the places that it finds in its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from devopsellence.nodeagent.envoy.admin import Host, Seen
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Site
from devopsellence.store.keys import EnvironmentRef

#: Envoy's main thread, which is asked, tells its workers of endpoints; this long after it a request that a worker had
#: already sent there shows.
QUIET_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """An endpoint's place: a container behind a port of a service."""

    env: EnvironmentRef
    service: str
    port: str
    container: str


@dataclass(frozen=True, slots=True)
class Place:
    """``known``: Envoy was seen to use it as it is here. Of one that is drained: ``limit`` is when it goes whatever is
    under way, ``active`` how many requests were seen last, ``quiet`` since when there were none (moments are
    monotonic)."""

    endpoint: Endpoint
    known: bool = False
    limit: float = 0.0
    active: int = 0
    quiet: float | None = None

    @property
    def host(self) -> str:
        """As Envoy lists it."""
        return host_of(self.endpoint)


Places: TypeAlias = Mapping[Key, Place]
#: What Envoy has in the cluster of an environment's service and port; None if it has no such cluster.
Hosts: TypeAlias = Callable[[EnvironmentRef, str, str], Mapping[str, Host] | None]


def host_of(endpoint: Endpoint) -> str:
    """``10.0.0.2:3000``, as Envoy lists it."""
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{address}:{endpoint.port}"


def follow(
    places: Places, env: EnvironmentRef, site: Site | None, drain_seconds: float, now: float
) -> dict[Key, Place]:
    """The places once ``env`` is routed as in ``site`` (None: not at all), drained within ``drain_seconds``."""
    wanted = {
        Key(env, backend.service, backend.port, endpoint.container): replace(endpoint, draining=False)
        for backend in (site.backends if site is not None else ())
        for endpoint in backend.endpoints
    }
    after: dict[Key, Place] = {}
    for key, place in places.items():
        if key.env != env or place.endpoint == wanted.get(key):
            after[key] = place
        elif key not in wanted:
            after[key] = _drained(place, now + drain_seconds)
    for key, endpoint in wanted.items():
        after.setdefault(key, Place(endpoint))
    return after


def _drained(place: Place, limit: float) -> Place:
    if place.endpoint.draining:
        # A limit that is lower now holds; a higher one does not begin anew.
        return replace(place, limit=min(place.limit, limit))
    return Place(replace(place.endpoint, draining=True), limit=limit)


def observe(places: Places, hosts: Hosts, now: float, *, routes_known: bool) -> dict[Key, Place]:
    """The places after a look at Envoy; those that it has let go of are gone.

    ``routes_known``: it uses the routes that it was given; before, requests may come by former ones.
    """
    after: dict[Key, Place] = {}
    for key, place in places.items():
        cluster = hosts(key.env, key.service, key.port)
        host = cluster.get(place.host) if cluster is not None else None
        if not place.endpoint.draining:
            after[key] = replace(place, known=host is not None and not host.draining)
            continue
        # One that Envoy does not have gets no requests: it has just started, from files that say so as well.
        known = routes_known and (host is None or host.draining)
        active = host.active if host is not None else 0
        quiet = (place.quiet if place.quiet is not None else now) if known and not active else None
        if quiet is None or now - quiet < QUIET_SECONDS:
            after[key] = replace(place, known=known, active=active, quiet=quiet)
    return after


def expire(places: Places, now: float) -> dict[Key, Place]:
    """The places without those whose limit has come."""
    return {key: place for key, place in places.items() if not place.endpoint.draining or now < place.limit}


def without_draining(places: Places) -> dict[Key, Place]:
    """The places when no Envoy runs: there are no requests."""
    return {key: place for key, place in places.items() if not place.endpoint.draining}


def anew(places: Places) -> dict[Key, Place]:
    """The places when nothing is known of Envoy any more, such as after its restart."""
    return {key: replace(place, known=False, quiet=None) for key, place in places.items()}


def held(places: Places, env: EnvironmentRef) -> dict[str, str]:
    """Containers that may not be stopped, by id, and why, as the end of a sentence."""
    mine = [(key.container, place) for key, place in places.items() if key.env == env]
    by_container: dict[str, list[Place]] = {}
    for container, place in sorted(mine, key=lambda each: each[0]):
        by_container.setdefault(container, []).append(place)
    return {container: _why(several) for container, several in by_container.items()}


def _why(places: Iterable[Place]) -> str:
    several = list(places)
    if any(not place.endpoint.draining for place in several):
        return "serves"
    if not all(place.known for place in several):
        return "is being taken out of service"
    active = sum(place.active for place in several)
    if not active:
        return "has just had its last request"
    return "1 request is under way" if active == 1 else f"{active} requests are under way"


def shown(site: Site | None, env: EnvironmentRef, places: Places) -> Site | None:
    """What Envoy is given for an environment: its site, with the endpoints that are being drained. None: nothing."""
    draining: dict[tuple[str, str], list[Endpoint]] = {}
    for key, place in sorted(places.items()):
        if key.env == env and place.endpoint.draining:
            draining.setdefault((key.service, key.port), []).append(place.endpoint)
    if site is None and not draining:
        return None
    site = site or Site(env, (), (), ())
    backends = {(backend.service, backend.port): backend.endpoints for backend in site.backends}
    for name, endpoints in draining.items():
        backends[name] = (*backends.get(name, ()), *endpoints)
    return replace(
        site,
        backends=tuple(
            Backend(service, port, tuple(sorted(endpoints))) for (service, port), endpoints in sorted(backends.items())
        ),
    )


def first_limit(places: Places) -> float | None:
    """When the next place goes whatever is under way."""
    return min((place.limit for place in places.values() if place.endpoint.draining), default=None)


def unsettled(places: Places, env: EnvironmentRef | None = None) -> bool:
    """Whether Envoy has yet to be seen to do something, in one environment or in all."""
    return any(
        place.endpoint.draining or not place.known for key, place in places.items() if env is None or key.env == env
    )


def together(seen: Seen, other: Seen) -> Seen:
    """What two Envoys use at the same time: the first is the one that is to go on, requests are those of both."""
    clusters = {name: dict(hosts) for name, hosts in seen.clusters.items()}
    for name, hosts in other.clusters.items():
        mine = clusters.setdefault(name, {})
        for address, host in hosts.items():
            first = mine.get(address, Host(draining=host.draining))
            mine[address] = Host(first.draining and host.draining, first.active + host.active)
    return replace(seen, clusters=clusters)
