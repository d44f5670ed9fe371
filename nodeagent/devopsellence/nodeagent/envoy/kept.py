"""What the router keeps of each environment beside Envoy's files, so that the next agent goes on where this one ended.

Envoy's files say what is routed, but shared ones hold all environments; to change one of them without forgetting the
others, each is kept as it was last given. The functions here are pure but for the wall clock's moments that they are
given; ``files`` writes what they make.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from devopsellence.nodeagent.docker.model import Now
from devopsellence.nodeagent.envoy.endpoints import Key, Place, Places
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Route, RouterPeer, Site, TlsCertificate
from devopsellence.store.keys import EnvironmentRef


def to_bytes(env: EnvironmentRef, site: Site | None, places: Places, now: Now) -> bytes:
    """A site and the places of its environment. It holds private keys."""
    kept = {
        "env": str(env),
        "site": None if site is None else _site_to(site),
        "places": [
            {
                "service": key.service,
                "port": key.port,
                "endpoint": asdict(place.endpoint),
                "limit": now.wall + place.limit - now.mono if place.endpoint.draining else 0.0,
            }
            for key, place in sorted(places.items())
            if key.env == env
        ],
    }
    return json.dumps(kept, sort_keys=True).encode()


def from_bytes(content: bytes, now: Now) -> tuple[EnvironmentRef, Site | None, dict[Key, Place]]:
    """What :func:`to_bytes` made, by perhaps another agent of another start of the machine; ValueError if it did not.

    No drain gets longer by that than its site allows.
    """
    try:
        kept: Any = json.loads(content)
        env = EnvironmentRef.parse(kept["env"])
        site = None if kept["site"] is None else _site_from(env, kept["site"])
        longest = site.drain_seconds if site is not None else Site(env, (), (), ()).drain_seconds
        places = {}
        for each in kept["places"]:
            endpoint = Endpoint(**each["endpoint"])
            left = min(max(0.0, each["limit"] - now.wall), longest)
            key = Key(env, each["service"], each["port"], endpoint.container)
            places[key] = Place(endpoint, limit=now.mono + left if endpoint.draining else 0.0)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return env, site, places


def _site_to(site: Site) -> dict[str, Any]:
    fields = asdict(site)
    del fields["env"]
    return fields


def _site_from(env: EnvironmentRef, fields: Mapping[str, Any]) -> Site:
    known = {
        "hosts": tuple(fields["hosts"]),
        "routes": tuple(Route(**each) for each in fields["routes"]),
        "backends": tuple(
            Backend(each["service"], each["port"], tuple(Endpoint(**one) for one in each["endpoints"]))
            for each in fields["backends"]
        ),
        "certificates": {host: TlsCertificate(**each) for host, each in fields["certificates"].items()},
        "challenges": {
            host: tuple((token, answer) for token, answer in each) for host, each in fields["challenges"].items()
        },
        "peers": tuple(RouterPeer(**each) for each in fields["peers"]),
    }
    return Site(env, **{**fields, **known})
