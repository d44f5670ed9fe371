"""An image archive from another machine, on its way to the engine: nothing but the image that is meant gets through.

An archive, as ``docker save`` writes it, could hold any images under any names. The image's id is the digest of its
configuration, and that lists the digests of its layers, which the engine checks: so it is enough to see that the
configuration has that digest, and that the archive's list names this image alone. Pure, but for being fed piece by
piece.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, cast

from devopsellence.nodeagent.images.layers import is_project_tag

#: Of a file that is looked into as a whole.
MAX_FILE_BYTES: Final = 8 << 20
_PIECE: Final = 1 << 20
_MANIFEST: Final = "manifest.json"
#: Other lists of what an archive holds, which the engine must not go by.
_LISTS: Final = frozenset({"repositories", "index.json", "oci-layout"})


class InvalidImageArchive(Exception):
    """The archive is not what was asked for, or not whole; says why."""


def filter_archive(image: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The archive in ``pieces`` with ``image`` (``sha256:…``) alone in it, for the engine.

    Raises:
        Unsound: before the end of the archive has been handed on, so the engine takes nothing of it.
    """
    digest = image.removeprefix("sha256:")
    # As engines have written it since 1.10, and since 25.
    configurations = {f"{digest}.json", f"blobs/sha256/{digest}"}
    seen, listed = False, False
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Reader(pieces)), mode="r|") as archive:
            for entry in archive:
                # Otherwise all entries are kept in memory.
                archive.members = []  # type: ignore[attr-defined]
                if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
                    raise InvalidImageArchive(f"it holds {entry.name}, which is no file")
                if entry.name in _LISTS:
                    continue
                if entry.name in configurations:
                    content = _read(archive, entry)
                    if hashlib.sha256(content).hexdigest() != digest:
                        raise InvalidImageArchive("its configuration has another digest")
                    seen = True
                    yield from _file(entry.name, content)
                elif entry.name == _MANIFEST:
                    content = _listing(_read(archive, entry), image, configurations)
                    listed = True
                    yield from _file(entry.name, content)
                else:
                    yield from _copied(archive, entry)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidImageArchive(f"it cannot be read: {error}") from error
    if not (seen and listed):
        raise InvalidImageArchive("the image is not in it")
    yield bytes(tarfile.BLOCKSIZE * 2)


class _Reader:
    """``pieces`` as a file for the tar library."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
            wanted = count - len(found)
            found += self._left[:wanted]
            self._left = self._left[wanted:]
        return bytes(found)


def _read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """All of a file that must be small."""
    if not entry.isreg() or entry.size > MAX_FILE_BYTES:
        raise InvalidImageArchive(f"its {entry.name} is no file of at most {MAX_FILE_BYTES >> 20} MiB")
    return b"".join(_content(archive, entry))


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    left, source = entry.size, archive.extractfile(entry)
    while left and source is not None:
        piece = source.read(min(_PIECE, left))
        if not piece:
            raise InvalidImageArchive("it ends too early")
        left -= len(piece)
        yield piece


def _listing(content: bytes, image: str, configurations: set[str]) -> bytes:
    """The archive's list: of ``image`` alone, with those names that this project gives to it."""
    try:
        document: Any = json.loads(content)
        (only_one,) = document
        named = [name for name in only_one.get("RepoTags") or () if is_project_tag(name, image)]
        configuration, layers = only_one["Config"], only_one["Layers"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidImageArchive("it does not hold one image") from error
    if configuration not in configurations:
        raise InvalidImageArchive("it holds another image")
    return json.dumps([{"Config": configuration, "RepoTags": named or None, "Layers": layers}]).encode()


def _copied(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    yield entry.tobuf(tarfile.GNU_FORMAT)
    if entry.isreg():
        yield from _content(archive, entry)
        yield bytes(-entry.size % tarfile.BLOCKSIZE)


def _file(name: str, content: bytes) -> Iterator[bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    yield entry.tobuf(tarfile.GNU_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)
