"""Hosts that two environments on a node both want: one gets it, and the other is told. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from devopsellence.nodeagent.envoy.model import Routing, Site
from devopsellence.store.keys import EnvironmentRef


def settle(sites: Iterable[Site]) -> tuple[Routing, dict[EnvironmentRef, str]]:
    """Each host with the environment that sorts first; what the others are to be told, by environment.

    Commands refuse a host that another environment has; here is what two that did not see one another lead to.
    """
    owners: dict[str, EnvironmentRef] = {}
    settled: list[Site] = []
    told: dict[EnvironmentRef, str] = {}
    for site in sorted(sites, key=lambda each: each.env):
        lost = {host: owners[host] for host in site.hosts if host in owners}
        owners.update({host: site.env for host in site.hosts if host not in owners})
        settled.append(_without(site, lost) if lost else site)
        if lost:
            host, owner = min(lost.items())
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            told[site.env] = (
                f"host {host}{more} belongs to {owner} on this node: take it out of one of the two and deploy that"
            )
    return Routing(tuple(settled)), told


def _without(site: Site, lost: Iterable[str]) -> Site:
    gone = frozenset(lost)
    return replace(
        site,
        hosts=tuple(host for host in site.hosts if host not in gone),
        routes=tuple(route for route in site.routes if route.host not in gone),
        certificates={host: each for host, each in site.certificates.items() if host not in gone},
        challenges={host: each for host, each in site.challenges.items() if host not in gone},
    )
