"""Ledger of images: pins by releases, images obtained by the agent, and the images to remove. Pure, apart from
:class:`ImageLedgerFile`.

Only an image pinned by a release on this node or obtained by the agent is ever removed. Any other image stays, used or
not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.images.layers import is_project_tag
from devopsellence.nodeagent.state_files import StateFiles

#: Per environment, so that a rollback finds the images on the node.
RELEASES_KEPT: Final = 10
#: Longest duration of a deploy after requesting an image.
REQUESTED_SECONDS: Final = 3600.0
#: Retention of an image obtained for a release that never came.
OBTAINED_SECONDS: Final = 86400.0


@dataclass(frozen=True)
class ImageLedger:
    """Record of images. Images are pinned references: an id or ``repository@digest``. Times are wall clock seconds."""

    #: By environment and release: images of the services and the release task on this node.
    releases: Mapping[str, Mapping[int, frozenset[str]]] = field(default_factory=dict)
    #: Images of forgotten releases.
    left: frozenset[str] = frozenset()
    #: Pulled or loaded by the agent, with the time.
    obtained: Mapping[str, float] = field(default_factory=dict)
    #: Requested by a deploy, with the time.
    requested: Mapping[str, float] = field(default_factory=dict)

    def with_release(
        self, environment: str, release: int, images: Iterable[str], *, last_settled: int = 0
    ) -> ImageLedger:
        """Add the images of a release; the oldest releases beyond :data:`RELEASES_KEPT` are forgotten.

        The release itself and ``last_settled``, the release to return to if it fails, are never forgotten, however many
        releases have come in between.
        """
        known = dict(self.releases.get(environment, {}))
        known[release] = known.get(release, frozenset()) | frozenset(images)
        needed = {*sorted(known)[-RELEASES_KEPT:], release, last_settled}
        kept = {number: known[number] for number in sorted(needed & known.keys())}
        gone = frozenset(image for number in known.keys() - kept.keys() for image in known[number])
        return replace(self, releases={**self.releases, environment: kept}, left=self.left | gone)

    def environment_removed(self, environment: str) -> ImageLedger:
        """Forget all releases of an environment."""
        gone = frozenset(image for images in self.releases.get(environment, {}).values() for image in images)
        rest = {name: releases for name, releases in self.releases.items() if name != environment}
        return replace(self, releases=rest, left=self.left | gone)

    def with_obtained(self, image: str, now: float) -> ImageLedger:
        """Record an image as pulled or loaded by the agent."""
        return replace(self, obtained={**self.obtained, image: now})

    def with_requested(self, images: Iterable[str], now: float) -> ImageLedger:
        """Record images as requested by a deploy."""
        fresh = {image: at for image, at in self.requested.items() if _within(REQUESTED_SECONDS, at, now)}
        return replace(self, requested={**fresh, **dict.fromkeys(images, now)})

    def without(self, images: Iterable[str]) -> ImageLedger:
        """Forget images: no longer on the engine, or not under the agent's control any more."""
        gone = frozenset(images)
        rest = {image: at for image, at in self.obtained.items() if image not in gone}
        return replace(self, left=self.left - gone, obtained=rest)

    def kept(self, now: float) -> frozenset[str]:
        """Return the images to keep: of remembered releases, and of deploys possibly in progress."""
        pinned = {image for releases in self.releases.values() for images in releases.values() for image in images}
        requested = {image for image, at in self.requested.items() if _within(REQUESTED_SECONDS, at, now)}
        obtained = {image for image, at in self.obtained.items() if _within(OBTAINED_SECONDS, at, now)}
        return frozenset(pinned | requested | (obtained - self.left))

    def candidates(self, now: float) -> frozenset[str]:
        """Return the images to remove if unused and without foreign tags."""
        return (self.left | self.obtained.keys()) - self.kept(now)


def unneeded_images(
    ledger: ImageLedger, images: Iterable[StoredImage], in_use: frozenset[str], now: float
) -> list[StoredImage]:
    """Return the images of the engine to remove, sorted by id.

    An image stays if any tag is not the project's, if not obtained by the agent, or if used by a container.
    """
    candidates, kept = ledger.candidates(now), ledger.kept(now)
    unneeded = []
    for image in images:
        names = {image.id, *image.digests}
        obtained = bool(names & ledger.obtained.keys()) or bool(image.tags)
        only_project_tags = all(is_project_tag(tag, image.id) for tag in image.tags)
        if names & candidates and not names & kept and obtained and only_project_tags and image.id not in in_use:
            unneeded.append(image)
    return sorted(unneeded, key=lambda image: image.id)


def _within(seconds: float, at: float, now: float) -> bool:
    # After the clock was set back, a time in the future must not keep an image for ever.
    return abs(now - at) < seconds


class ImageLedgerFile:
    """Ledger on disk, written atomically. Methods block."""

    def __init__(self, path: Path, files: StateFiles | None = None) -> None:
        self.path = path
        self._files = files or StateFiles(path.parent)

    def load(self) -> ImageLedger:
        """Load the ledger; empty if never saved. ValueError for invalid content, OSError if unreadable."""
        try:
            content = self._files.read(self.path)
            stored: Any = json.loads(content)
        except FileNotFoundError:
            return ImageLedger()
        try:
            releases = {
                environment: {int(number): frozenset(images) for number, images in known.items()}
                for environment, known in stored["releases"].items()
            }
            times = [{str(image): float(at) for image, at in stored[name].items()} for name in ("brought", "asked")]
            ledger = ImageLedger(releases, frozenset(stored["left"]), *times)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        self._files.adopt(self.path, content)
        return ledger

    def save(self, ledger: ImageLedger) -> None:
        """Save the ledger. OSError if not writable."""
        document = {
            "releases": {
                environment: {str(number): sorted(images) for number, images in known.items()}
                for environment, known in ledger.releases.items()
            },
            "left": sorted(ledger.left),
            "brought": dict(ledger.obtained),
            "asked": dict(ledger.requested),
        }
        self._files.write(self.path, json.dumps(document, sort_keys=True).encode(), sync=False)
