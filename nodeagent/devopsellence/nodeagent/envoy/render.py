"""How many files Envoy can follow, and what is left out where that is too few.

Envoy takes an inotify instance for every file that it follows. When the kernel gives it none it ends, and would end
again at each start, with everything that it serves. The kernel gives a user 128 unless told otherwise (inotify(7),
``max_user_instances``), and there is a file for each backend.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.envoy.model import Routing
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
