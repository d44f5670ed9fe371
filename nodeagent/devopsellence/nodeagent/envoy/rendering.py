"""Files from what is to be routed: no more than Envoy can follow, and nothing made anew that a cutover leaves alone.

With two hundred hosts all files are 3 MB and take a quarter of a second; a cutover replaces one of some hundred bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from devopsellence.nodeagent.envoy import clusters, xds
from devopsellence.nodeagent.envoy.model import Listen, Routing
from devopsellence.nodeagent.envoy.render import fit, room
from devopsellence.nodeagent.envoy.versions import Expected, expected, expected_endpoints
from devopsellence.store.keys import EnvironmentRef

#: Files that Envoy may follow although nothing is expected of them: the node's own certificate.
_BESIDE: Final = 4


@dataclass(frozen=True, slots=True)
class Rendered:
    """``routing`` is what the ``files`` (by path) say, ``expected`` (by statistic) what confirms them. ``told``: of
    environments that are not routed as they should be."""

    routing: Routing
    files: Mapping[str, bytes]
    expected: Mapping[str, Expected]
    told: Mapping[EnvironmentRef, str] = field(default_factory=dict)


class Rendering:
    """``folder`` is where the files are as Envoy sees them; ``room`` how many more files it can follow."""

    def __init__(self, folder: str, room: Callable[[int], int] = room) -> None:
        self._folder = folder
        self._room = room
        self._last: tuple[Routing, Listen, Rendered] | None = None
        self._followed = 0
        self._routed: frozenset[EnvironmentRef] = frozenset()

    def found(self, files: int) -> None:
        """An Envoy runs that follows so many files already."""
        self._followed = files + _BESIDE

    def ended(self) -> None:
        """No Envoy runs, and none follows anything."""
        self._followed, self._routed, self._last = 0, frozenset(), None

    def render(self, routing: Routing, listen: Listen) -> Rendered:
        """As :func:`xds.files` makes them. Blocks for as long as that takes."""
        frame = Routing(
            tuple(
                replace(site, backends=tuple(replace(backend, endpoints=()) for backend in site.backends))
                for site in routing.sites
            )
        )
        if self._last is not None and self._last[:2] == (frame, listen):
            found = _cut_over(self._last[2], routing, listen)
        else:
            found = self._rendered(routing, listen)
        # What did not fit may another time.
        self._last = (frame, listen, found) if not found.told else None
        return found

    def _rendered(self, routing: Routing, listen: Listen) -> Rendered:
        found = self._made(routing, listen, {})
        more = len(found.expected) + _BESIDE - self._followed
        if more > 0 and (lack := more - self._room(more)) > 0:
            fitting, told = fit(routing, lack, self._routed)
            found = self._made(fitting, listen, told)
        self._followed = max(self._followed, len(found.expected) + _BESIDE)
        self._routed = frozenset(site.env for site in found.routing.sites)
        return found

    def _made(self, routing: Routing, listen: Listen, told: Mapping[EnvironmentRef, str]) -> Rendered:
        files = xds.files(routing, listen, self._folder)
        return Rendered(routing, files, expected(files), told)


def _cut_over(last: Rendered, routing: Routing, listen: Listen) -> Rendered:
    """Only the endpoints are others."""
    changed = {
        clusters.endpoints_path(site.env, backend.service, backend.port): clusters.endpoints(site, backend, listen)
        for site in routing.sites
        for backend in site.backends
    }
    return Rendered(routing, {**last.files, **changed}, {**last.expected, **expected_endpoints(changed)}, last.told)
