"""Rendering of Envoy's files, within the number of files that Envoy can watch.

Envoy uses an inotify instance for every watched file, and aborts when the kernel has none left: at every start, with
everything that Envoy serves. A user has 128 instances by default (inotify(7), ``max_user_instances``), and every
backend has a file. So environments that do not fit are left out.

With two hundred hosts all files take 3 MB and a quarter of a second, so a cutover renders the endpoints files only.
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

from devopsellence.nodeagent.envoy.admin import ExpectedVersion, expected_endpoint_versions, expected_versions
from devopsellence.nodeagent.envoy.clusters import endpoints_file, endpoints_path
from devopsellence.nodeagent.envoy.config import config_files
from devopsellence.nodeagent.envoy.model import ListenerConfig, NodeRouting
from devopsellence.store.keys import EnvironmentRef

LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_instances")
#: Instances for the user's remaining processes: the kernel's default limit.
_RESERVED: Final = 128
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RenderedConfig:
    """Envoy's files (by path), with the ``routing`` in them and the ``expected`` versions (by statistic).

    ``problems``: reasons of environments that were left out.
    """

    routing: NodeRouting
    files: Mapping[str, bytes]
    expected: Mapping[str, ExpectedVersion]
    problems: Mapping[EnvironmentRef, str] = field(default_factory=dict)


def available_watches(more: int) -> int:
    """Return the number of additional files that Envoy can watch, up to ``more``. Blocks for milliseconds.

    Raises the kernel's limit if the limit is too low and this user may: an instance costs some hundred bytes.
    """
    # Twice, because two Envoys run side by side while a new Envoy replaces an old one.
    if _free_instances(2 * more) < 2 * more:
        enough = _enough(more)
        with suppress(OSError):
            if _limit() < enough:
                LIMIT.write_text(f"{enough}\n", encoding="ascii")
                _log.info("the limit on inotify instances was raised", limit=enough)
    return _free_instances(more)


def fit_to_watches(
    routing: NodeRouting, excess: int, watched: Collection[EnvironmentRef]
) -> tuple[NodeRouting, dict[EnvironmentRef, str]]:
    """Leave out environments with ``excess`` or more files in total; return the reasons by environment. Pure.

    ``watched``: environments already routed, which stay.
    """
    left_out: set[EnvironmentRef] = set()
    freed = 0
    for config in reversed(routing.configs):
        if freed < excess and config.ref not in watched and config.backends:
            left_out.add(config.ref)
            freed += len(config.backends)
    reason = (
        "Envoy cannot watch as many files on this machine: "
        f"run `sysctl -w fs.inotify.max_user_instances={_enough(excess + _limit())}` on it"
    )
    fitting = NodeRouting(tuple(config for config in routing.configs if config.ref not in left_out))
    return fitting, dict.fromkeys(left_out, reason)


def _enough(more: int) -> int:
    """Return a limit that suffices for ``more`` files in two Envoys and for the user's remaining processes."""
    return int(1 << (2 * more + _RESERVED - 1).bit_length())


def _limit() -> int:
    try:
        return int(LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _free_instances(count: int) -> int:
    """Return the number of inotify instances that the kernel gives this process, up to ``count``."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptors: list[int] = []
    try:
        while len(descriptors) < count and (descriptor := int(library.inotify_init1(os.O_CLOEXEC))) >= 0:
            descriptors.append(descriptor)
        return len(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


class ConfigRenderer:
    """Renderer of Envoy's files, with a count of the files that Envoy watches.

    ``folder``: path of the files inside the container. ``available``: see :func:`available_watches`.
    """

    def __init__(self, folder: str, available: Callable[[int], int] = available_watches) -> None:
        self._folder = folder
        self._available = available
        self._last: tuple[NodeRouting, ListenerConfig, RenderedConfig] | None = None
        self._watched = 0
        self._routed: frozenset[EnvironmentRef] = frozenset()

    def assume_watched(self, files: int) -> None:
        """Take ``files`` as the number of files that a running Envoy of the last agent watches."""
        self._watched = files

    def reset(self) -> None:
        """Forget everything: no Envoy runs, and no file is watched."""
        self._watched, self._routed, self._last = 0, frozenset(), None

    def render(self, routing: NodeRouting, listen: ListenerConfig) -> RenderedConfig:
        """Render all files (:func:`config.config_files`), reusing unchanged files of the last call. Blocks."""
        frame = NodeRouting(
            tuple(
                replace(config, backends=tuple(replace(backend, endpoints=()) for backend in config.backends))
                for config in routing.configs
            )
        )
        if self._last is not None and self._last[:2] == (frame, listen):
            rendered = _replace_endpoints(self._last[2], routing, listen)
        else:
            rendered = self._render_fitting(routing, listen)
        # Environments left out now may fit next time.
        self._last = (frame, listen, rendered) if not rendered.problems else None
        return rendered

    def _render_fitting(self, routing: NodeRouting, listen: ListenerConfig) -> RenderedConfig:
        rendered = self._render_all(routing, listen, {})
        more = len(rendered.expected) - self._watched
        if more > 0 and (excess := more - self._available(more)) > 0:
            fitting, problems = fit_to_watches(routing, excess, self._routed)
            rendered = self._render_all(fitting, listen, problems)
        self._watched = max(self._watched, len(rendered.expected))
        self._routed = frozenset(config.ref for config in rendered.routing.configs)
        return rendered

    def _render_all(
        self, routing: NodeRouting, listen: ListenerConfig, problems: Mapping[EnvironmentRef, str]
    ) -> RenderedConfig:
        files = config_files(routing, listen, self._folder)
        return RenderedConfig(routing, files, expected_versions(files), problems)


def _replace_endpoints(last: RenderedConfig, routing: NodeRouting, listen: ListenerConfig) -> RenderedConfig:
    """Return ``last`` with new endpoints, all else being equal."""
    changed = {
        endpoints_path(config.ref, backend.service, backend.port): endpoints_file(config, backend, listen)
        for config in routing.configs
        for backend in config.backends
    }
    expected = {**last.expected, **expected_endpoint_versions(changed)}
    return RenderedConfig(routing, {**last.files, **changed}, expected, last.problems)
