"""Which images may go: what releases here have pinned, what was brought here, and what follows from both. Pure, but for
:class:`ImageLedgerFile`.

Only an image that a release on this node has pinned, or that we have brought here, is ever taken away; what else is on
the engine is none of our business, also when nobody seems to use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.images.layers import is_project_tag

#: Of each environment, so that a rollback finds its images here.
RELEASES_KEPT: Final = 10
#: A deploy that has asked for an image is under way for so long at most.
REQUESTED_SECONDS: Final = 3600.0
#: An image that was brought for a release which never came is kept for so long.
BROUGHT_SECONDS: Final = 86400.0


@dataclass(frozen=True)
class ImageLedger:
    """Images are pinned ones: an id, or ``repository@digest``. Times are of the wall clock."""

    #: By environment, by release: what its services and its task here have pinned.
    releases: Mapping[str, Mapping[int, frozenset[str]]] = field(default_factory=dict)
    #: Pinned here once, by releases that have gone.
    left: frozenset[str] = frozenset()
    #: Pulled or loaded by us, and when.
    obtained: Mapping[str, float] = field(default_factory=dict)
    #: Looked for by a deploy, and when.
    requested: Mapping[str, float] = field(default_factory=dict)

    def with_release(self, env: str, release: int, images: Iterable[str]) -> ImageLedger:
        """A release runs here with these images; the oldest beyond ten is forgotten."""
        known = dict(self.releases.get(env, {}))
        known[release] = known.get(release, frozenset()) | frozenset(images)
        kept = {number: known[number] for number in sorted(known)[-RELEASES_KEPT:]}
        gone = frozenset(image for number in known.keys() - kept.keys() for image in known[number])
        return replace(self, releases={**self.releases, env: kept}, left=self.left | gone)

    def environment_removed(self, env: str) -> ImageLedger:
        """An environment has left this node."""
        gone = frozenset(image for images in self.releases.get(env, {}).values() for image in images)
        rest = {name: releases for name, releases in self.releases.items() if name != env}
        return replace(self, releases=rest, left=self.left | gone)

    def with_obtained(self, image: str, now: float) -> ImageLedger:
        """We have pulled or loaded it."""
        return replace(self, obtained={**self.obtained, image: now})

    def with_requested(self, images: Iterable[str], now: float) -> ImageLedger:
        """Somebody is about to deploy these."""
        fresh = {image: at for image, at in self.requested.items() if _within(REQUESTED_SECONDS, at, now)}
        return replace(self, requested={**fresh, **dict.fromkeys(images, now)})

    def without(self, images: Iterable[str]) -> ImageLedger:
        """These are gone from the engine, or nobody's business any more."""
        gone = frozenset(images)
        rest = {image: at for image, at in self.obtained.items() if image not in gone}
        return replace(self, left=self.left - gone, obtained=rest)

    def kept(self, now: float) -> frozenset[str]:
        """What stays: the images of every remembered release, and those of a deploy that may be under way."""
        pinned = {image for releases in self.releases.values() for images in releases.values() for image in images}
        asked = {image for image, at in self.requested.items() if _within(REQUESTED_SECONDS, at, now)}
        brought = {image for image, at in self.obtained.items() if _within(BROUGHT_SECONDS, at, now)}
        return frozenset(pinned | asked | (brought - self.left))

    def candidates(self, now: float) -> frozenset[str]:
        """What may go, if it is ours and nobody uses it."""
        return (self.left | self.obtained.keys()) - self.kept(now)


def unneeded_images(
    ledger: ImageLedger, images: Iterable[StoredImage], in_use: frozenset[str], now: float
) -> list[StoredImage]:
    """Those of the engine's ``images`` that are to be taken away, in order of their ids.

    An image that carries any name which is not ours, was not brought by us, or is used by a container, stays.
    """
    candidates, kept = ledger.candidates(now), ledger.kept(now)
    found = []
    for image in images:
        names = {image.id, *image.digests}
        brought = bool(names & ledger.obtained.keys()) or bool(image.tags)
        only_ours = all(is_project_tag(tag, image.id) for tag in image.tags)
        if names & candidates and not names & kept and brought and only_ours and image.id not in in_use:
            found.append(image)
    return sorted(found, key=lambda image: image.id)


def _within(seconds: float, at: float, now: float) -> bool:
    # A time from the future, by a clock that was set back, does not keep anything for ever.
    return abs(now - at) < seconds


class ImageLedgerFile:
    """A ledger on disk; written to a temporary file and renamed. Methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> ImageLedger:
        """What was saved; an empty one if nothing was. ValueError if it cannot be understood, OSError if not read."""
        try:
            stored: Any = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return ImageLedger()
        try:
            releases = {
                env: {int(number): frozenset(images) for number, images in known.items()}
                for env, known in stored["releases"].items()
            }
            times = [{str(image): float(at) for image, at in stored[name].items()} for name in ("brought", "asked")]
            return ImageLedger(releases, frozenset(stored["left"]), *times)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def save(self, ledger: ImageLedger) -> None:
        """OSError if it cannot be written."""
        document = {
            "releases": {
                env: {str(number): sorted(images) for number, images in known.items()}
                for env, known in ledger.releases.items()
            },
            "left": sorted(ledger.left),
            "brought": dict(ledger.obtained),
            "asked": dict(ledger.requested),
        }
        temporary = self.path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document, sort_keys=True).encode())
        temporary.replace(self.path)
