"""How many files Envoy can follow, and what is left out where that is too few.

Envoy takes an inotify instance for every file that it follows. When the kernel gives it none it ends, and would end
again at each start, with everything that it serves. The kernel gives a user 128 unless told otherwise (inotify(7),
``max_user_instances``), and there is a file for each backend.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.envoy import clusters, config
from devopsellence.nodeagent.envoy.admin import Expected, expected, expected_endpoints
from devopsellence.nodeagent.envoy.model import Listen, Routing
from devopsellence.store.keys import EnvironmentRef

LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_instances")
#: For everybody else of the same user: the kernel's own idea of enough.
_OTHERS: Final = 128
_log = structlog.get_logger()


def room(more: int) -> int:
    """For how many more files than now there is room, up to ``more``. Blocks for milliseconds.

    The limit is raised where it is too low and this user may: what it guards is some hundred bytes each.
    """
    # Twice, because two Envoys stand side by side while one replaces the other.
    if _had(2 * more) < 2 * more:
        enough = _enough(more)
        with suppress(OSError):
            if _limit() < enough:
                LIMIT.write_text(f"{enough}\n", encoding="ascii")
                _log.info("the limit on inotify instances was raised", limit=enough)
    return _had(more)


def fit(routing: Routing, lack: int, followed: Collection[EnvironmentRef]) -> tuple[Routing, dict[EnvironmentRef, str]]:
    """Without as many sites as have ``lack`` files that cannot be followed, and what to tell of those. Pure.

    ``followed``: environments that are routed already, and stay.
    """
    left_out: set[EnvironmentRef] = set()
    freed = 0
    for site in reversed(routing.sites):
        if freed < lack and site.env not in followed and site.backends:
            left_out.add(site.env)
            freed += len(site.backends)
    reason = (
        "Envoy cannot follow as many files on this machine: "
        f"run `sysctl -w fs.inotify.max_user_instances={_enough(lack + _limit())}` on it"
    )
    return Routing(tuple(site for site in routing.sites if site.env not in left_out)), dict.fromkeys(left_out, reason)


def _enough(more: int) -> int:
    """A limit that is enough for so many in two Envoys and for everybody else."""
    return int(1 << (2 * more + _OTHERS - 1).bit_length())


def _limit() -> int:
    try:
        return int(LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _had(count: int) -> int:
    """How many instances the kernel gives, up to ``count``."""
    library = ctypes.CDLL(None, use_errno=True)
    had: list[int] = []
    try:
        while len(had) < count and (descriptor := int(library.inotify_init1(os.O_CLOEXEC))) >= 0:
            had.append(descriptor)
        return len(had)
    finally:
        for descriptor in had:
            os.close(descriptor)


# MERGED Files from what is to be routed: no more than Envoy can follow, and nothing made

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
        files = config.files(routing, listen, self._folder)
        return Rendered(routing, files, expected(files), told)


def _cut_over(last: Rendered, routing: Routing, listen: Listen) -> Rendered:
    """Only the endpoints are others."""
    changed = {
        clusters.endpoints_path(site.env, backend.service, backend.port): clusters.endpoints(site, backend, listen)
        for site in routing.sites
        for backend in site.backends
    }
    return Rendered(routing, {**last.files, **changed}, {**last.expected, **expected_endpoints(changed)}, last.told)
