"""Images on the engine: list, inspect, load, tag and remove.

Part of ``docker.client``, which supplies the SDK client and the error translation. Methods block, raise only the errors
of ``docker.errors``, and return plain data.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devopsellence.nodeagent.docker import errors, names

#: Longest silence of the engine during a load: unpacking a layer produces no output.
LOAD_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image on the engine. ``digests`` are ``repository@sha256:…``; ``tags`` never contain ``<none>``."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


class ImageStore:
    """Image calls of ``docker.client``. ``connect(seconds)`` opens another SDK client with a longer timeout, closed by
    the caller."""

    def __init__(self, client: Any, connect: Callable[[int], Any]) -> None:
        self._client = client
        self._connect = connect

    def stored(self) -> list[StoredImage]:
        """List all images, with or without a name, except intermediate images of builds."""
        with errors.translated():
            images = self._client.images()
        return [
            StoredImage(str(image["Id"]), _named(image.get("RepoTags")), _named(image.get("RepoDigests")))
            for image in images
        ]

    def layers(self, image: str) -> tuple[str, ...]:
        """Return the digests of an image's layers, lowest first. ImageNotAvailable if missing."""
        with errors.translated():
            document = self._client.inspect_image(image)
        return tuple((document.get("RootFS") or {}).get("Layers") or ())

    def labels(self, image: str) -> Mapping[str, str]:
        """Return an image's labels of this project, by image id or name. ImageNotAvailable if missing."""
        with errors.translated():
            document = self._client.inspect_image(image)
        return names.own_labels((document.get("Config") or {}).get("Labels"))

    def volumes(self, image: str) -> tuple[str, ...]:
        """Return the paths of the volumes that an image declares (``VOLUME``), sorted. ImageNotAvailable if missing."""
        with errors.translated():
            document = self._client.inspect_image(image)
        paths = {posixpath.normpath(path) for path in (document.get("Config") or {}).get("Volumes") or ()}
        return tuple(sorted(path for path in paths if path.startswith("/") and path != "/"))

    def describe(self, image: str) -> tuple[int, tuple[str, ...]]:
        """Return the size of an image in bytes, and its tags. ImageNotAvailable if missing."""
        with errors.translated():
            document = self._client.inspect_image(image)
        return int(document.get("Size") or 0), _named(document.get("RepoTags"))

    def in_use(self) -> frozenset[str]:
        """Return the ids of the images used by any container on the engine, running or not."""
        with errors.translated():
            return frozenset(str(container.get("ImageID", "")) for container in self._client.containers(all=True))

    def load(self, archive: Iterable[bytes]) -> None:
        """Load an archive in the format of ``docker save``.

        Raises:
            DiskFull: no space left.
            EngineRefused: the archive is not valid.
        """
        with errors.translated(errors.EngineRefused), closing(self._connect(LOAD_SECONDS)) as client:
            for line in client.load_image(archive):
                if "error" in line:
                    raise errors.refusal_of(str(line["error"]), errors.EngineRefused)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Tag an image; an image with the same tag loses the tag."""
        with errors.translated(errors.EngineRefused):
            self._client.tag(image, repository, tag)

    def remove(self, image: StoredImage) -> None:
        """Remove an image with all names. Conflict, with the rest left in place, while a container uses the image."""
        # Name by name: without force the engine refuses to remove an id with several names, and with force it would
        # also remove an image used by a container.
        for name in (*image.tags, *image.digests, image.id):
            with suppress(errors.ImageNotAvailable, errors.NotFound), errors.translated():
                self._client.remove_image(name)

    def folder(self) -> Path:
        """Return the engine's data root, on the engine's machine."""
        with errors.translated():
            return Path(str(self._client.info().get("DockerRootDir") or "/"))


def _named(names: Iterable[str] | None) -> tuple[str, ...]:
    return tuple(name for name in names or () if "<none>" not in name)
