"""Where each layer of an image stands in what ``docker save`` wrote.

Engines up to 24 write ``<id>/layer.tar`` and, where a layer occurs twice, a link to the first; newer ones write an OCI
layout with ``blobs/sha256/<digest>``. Both have a ``manifest.json`` that names the files, so that is what is read.
Layers are taken as they are, uncompressed; their digests say whether they are what they should be.
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

#: A link to a link to a link; docker writes one.
_LINKS: Final = 8
_MOST_JSON: Final = 64 << 20


class InvalidArchive(Exception):
    """This is not an archive of images that can be sent layer by layer; the message says why."""


@dataclass(frozen=True)
class Extent:
    """A part of the archive's file."""

    offset: int
    size: int


@dataclass(frozen=True)
class SavedImage:
    """An image in an archive. ``config`` is byte for byte what the id is the digest of."""

    id: str
    config: bytes
    diff_ids: tuple[str, ...]


@dataclass(frozen=True)
class ArchiveIndex:
    """What an archive holds: images by id, layers by the digest of their uncompressed tar."""

    images: Mapping[str, SavedImage]
    layers: Mapping[str, Extent]


def read_index(path: Path) -> ArchiveIndex:
    """Read an archive's directory; blocks, and reads none of the layers.

    Raises:
        InvalidArchive: it is none.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = {_normal(member.name): member for member in archive}
            return _Reader(archive, members).index()
    except tarfile.TarError as error:
        raise InvalidArchive(f"not a tar: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArchive(f"its manifest cannot be read: {type(error).__name__}: {error}") from error


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
            diff_ids = tuple(str(each) for each in document["rootfs"]["diff_ids"] or ())
            names = entry["Layers"] or []
            if len(names) != len(diff_ids):
                raise InvalidArchive(f"an image has {len(diff_ids)} layers, and the archive {len(names)} of them")
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
        """The file of that name, through links."""
        for _ in range(_LINKS):
            member = self._members.get(_normal(name))
            if member is None:
                raise InvalidArchive(f"{name} is not in it")
            if member.isreg():
                return member
            if not member.issym() and not member.islnk():
                raise InvalidArchive(f"{name} is neither a file nor a link to one")
            # A symbolic link is relative to its folder, a hard link to the archive.
            folder = posixpath.dirname(member.name) if member.issym() else ""
            name = posixpath.join(folder, member.linkname)
        raise InvalidArchive(f"{name} is a link to itself")


def _normal(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")
