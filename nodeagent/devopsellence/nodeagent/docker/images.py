"""The engine's images: what is there, what is in use, loading one from a stream, taking one away.

Part of ``docker.py``, which makes it and gives it the SDK's client and the translation of its errors; as there, every
method blocks, raises only the errors of ``errors``, and returns only plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from devopsellence.nodeagent.docker import errors

#: Between two words of the engine while it unpacks a layer, which it does in one piece.
LOAD_SECONDS: Final = 600
ErrorTranslation: TypeAlias = Callable[..., AbstractContextManager[None]]
#: What an error of the engine's own is, by its sentence, where it has no status of its own.
ErrorMapper: TypeAlias = Callable[[str, type[errors.EngineError]], errors.EngineError]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image on the engine. ``digests`` are ``repository@sha256:…``; ``tags`` hold no ``<none>``."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


class ImageStore:
    """``client`` is the SDK's; ``patient`` makes another with longer patience, which the caller closes."""

    def __init__(
        self, client: Any, patient: Callable[[int], Any], translated: ErrorTranslation, refusal: ErrorMapper
    ) -> None:
        self._client = client
        self._patient = patient
        self._translated = translated
        self._refusal = refusal

    def stored(self) -> list[StoredImage]:
        """Every image, also those without a name; not the steps in between of a build."""
        with self._translated():
            found = self._client.images()
        return [
            StoredImage(str(each["Id"]), _named(each.get("RepoTags")), _named(each.get("RepoDigests")))
            for each in found
        ]

    def layers(self, image: str) -> tuple[str, ...]:
        """The digests of an image's layers, the lowest first. ImageNotAvailable if there is no such image."""
        with self._translated():
            document = self._client.inspect_image(image)
        return tuple((document.get("RootFS") or {}).get("Layers") or ())

    def describe(self, image: str) -> tuple[int, tuple[str, ...]]:
        """How many bytes an image has, and what it is called. ImageNotAvailable if there is no such image."""
        with self._translated():
            document = self._client.inspect_image(image)
        return int(document.get("Size") or 0), _named(document.get("RepoTags"))

    def in_use(self) -> frozenset[str]:
        """Ids of the images of all containers, whoever made them, running or not."""
        with self._translated():
            return frozenset(str(container.get("ImageID", "")) for container in self._client.containers(all=True))

    def load(self, archive: Iterable[bytes]) -> None:
        """Have the engine read an archive as ``docker save`` writes them.

        Raises:
            DiskFull: there is no room.
            Refused: it does not take the archive.
        """
        with self._translated(errors.EngineRefused), closing(self._patient(LOAD_SECONDS)) as client:
            for line in client.load_image(archive):
                if "error" in line:
                    raise self._refusal(str(line["error"]), errors.EngineRefused)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image a name, which whatever had it before loses."""
        with self._translated(errors.EngineRefused):
            self._client.tag(image, repository, tag)

    def remove(self, image: StoredImage) -> None:
        """Take away an image with all its names. Conflict, and whatever is left stays, when a container uses it."""
        # One name at a time: the engine refuses an id that has several, unless forced, and force would also take one
        # that a container uses.
        for name in (*image.tags, *image.digests, image.id):
            with suppress(errors.ImageNotAvailable, errors.NotFound), self._translated():
                self._client.remove_image(name)

    def folder(self) -> Path:
        """Where the engine keeps its data, on its own machine."""
        with self._translated():
            return Path(str(self._client.info().get("DockerRootDir") or "/"))


def _named(names: Iterable[str] | None) -> tuple[str, ...]:
    return tuple(name for name in names or () if "<none>" not in name)
