"""Index of a ``docker save`` archive: offset and size of every layer.

Docker Engine up to version 24 writes ``<id>/layer.tar``, and a link for a repeated layer; newer versions write an OCI
layout with ``blobs/sha256/<digest>``. Both contain a ``manifest.json`` with the file names, which is read here. Layers
are uncompressed; receivers verify the digests.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: Maximum depth of links; docker writes a single link.
_LINKS: Final = 8
_MOST_JSON: Final = 64 << 20


class InvalidArchive(Exception):
    """Archive without uploadable layers; the message is the reason."""


@dataclass(frozen=True)
class Extent:
    """Byte range of the archive file."""

    offset: int
    size: int


@dataclass(frozen=True)
class SavedImage:
    """Image in an archive; ``id`` is the digest of the bytes in ``config``."""

    id: str
    config: bytes
    diff_ids: tuple[str, ...]


@dataclass(frozen=True)
class ArchiveIndex:
    """Content of an archive: images by id, layers by the digest of the uncompressed tar."""

    images: Mapping[str, SavedImage]
    layers: Mapping[str, Extent]


def read_index(path: Path) -> ArchiveIndex:
    """Read the index of an archive without the layers; blocking.

    Raises:
        InvalidArchive: the file is not an archive of images.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = {_normal(member.name): member for member in archive}
            return _Reader(archive, members).index()
    except tarfile.TarError as error:
        raise InvalidArchive(f"not a tar: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArchive(f"unreadable manifest: {type(error).__name__}: {error}") from error


class _Reader:
    def __init__(self, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> None:
        self._archive = archive
        self._members = members

    def index(self) -> ArchiveIndex:
        images: dict[str, SavedImage] = {}
        layers: dict[str, Extent] = {}
        for entry in json.loads(self._content("manifest.json")):
            config = self._content(entry["Config"])
            document: Any = json.loads(config)
            diff_ids = tuple(str(diff_id) for diff_id in document["rootfs"]["diff_ids"] or ())
            names = entry["Layers"] or []
            if len(names) != len(diff_ids):
                raise InvalidArchive(f"an image has {len(diff_ids)} layers, but the archive contains {len(names)}")
            image = f"sha256:{hashlib.sha256(config).hexdigest()}"
            images[image] = SavedImage(image, config, diff_ids)
            for diff_id, name in zip(diff_ids, names, strict=True):
                member = self._file(name)
                layers[diff_id] = Extent(member.offset_data, member.size)
        return ArchiveIndex(images, layers)

    def _content(self, name: str) -> bytes:
        member = self._file(name)
        if member.size > _MOST_JSON:
            raise InvalidArchive(f"{name} is {member.size} bytes long")
        file = self._archive.extractfile(member)
        return file.read() if file is not None else b""

    def _file(self, name: str) -> tarfile.TarInfo:
        """Return the archive member of a name; follows links."""
        for _ in range(_LINKS):
            member = self._members.get(_normal(name))
            if member is None:
                raise InvalidArchive(f"{name} is missing")
            if member.isreg():
                return member
            if not member.issym() and not member.islnk():
                raise InvalidArchive(f"{name} is neither a file nor a link to a file")
            # A symbolic link is relative to its folder, a hard link to the archive.
            folder = posixpath.dirname(member.name) if member.issym() else ""
            name = posixpath.join(folder, member.linkname)
        raise InvalidArchive(f"{name} is a link to itself")


def _normal(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")
