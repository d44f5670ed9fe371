"""Filter for image archives from peers: only the requested image reaches the engine.

An archive in the format of ``docker save`` could contain any images under any names. An image id is the digest of the
image's configuration, and the configuration lists the digests of the layers. So three checks suffice: the configuration
has the digest, the archive's manifest names this image alone, and its layers have their digests
(``images.archive_content``). Pure, apart from consuming an iterator.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, cast

from devopsellence.nodeagent.images.archive_content import ArchiveContent, BoundedTarInfo, InvalidImageArchive
from devopsellence.nodeagent.images.layers import is_project_tag

#: Limit for files read as a whole (configuration and manifest).
MAX_FILE_BYTES: Final = 8 << 20
_CHUNK_BYTES: Final = 1 << 20
_MANIFEST: Final = "manifest.json"
#: Alternative manifests, dropped so that the engine cannot use them.
_LISTS: Final = frozenset({"repositories", "index.json", "oci-layout"})


def filter_archive(image: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the archive in ``pieces``, reduced to ``image`` (``sha256:…``), for the engine.

    Raises:
        InvalidImageArchive: before the end of the archive is yielded, so the engine discards everything.
    """
    digest = image.removeprefix("sha256:")
    # Name of the configuration in archives of Docker 1.10 and later, and of Docker 25 and later.
    config_names = {f"{digest}.json", f"blobs/sha256/{digest}"}
    content, config = ArchiveContent(), b""
    manifest: dict[str, Any] = {}
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Reader(pieces)), mode="r|", tarinfo=BoundedTarInfo) as archive:
            for entry in archive:
                # Otherwise tarfile keeps all entries in memory.
                archive.members = []  # type: ignore[attr-defined]
                content.enter(entry)
                if entry.name in _LISTS:
                    continue
                if entry.name in config_names:
                    config = _read(archive, entry)
                    if hashlib.sha256(config).hexdigest() != digest:
                        raise InvalidImageArchive("its configuration has a different digest")
                    yield from _file(entry.name, config)
                elif entry.name == _MANIFEST:
                    manifest = _filtered_manifest(_read(archive, entry), image, config_names)
                    yield from _file(entry.name, json.dumps([manifest]).encode())
                else:
                    yield from _copy(archive, entry, content)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidImageArchive(f"it cannot be read: {error}") from error
    if not (config and manifest):
        raise InvalidImageArchive("it does not contain the image")
    content.check_layers(manifest["Layers"], config)
    yield bytes(tarfile.BLOCKSIZE * 2)


class _Reader:
    """File object over ``pieces``, for tarfile."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._chunks = iter(pieces)
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
            missing = count - len(data)
            data += self._rest[:missing]
            self._rest = self._rest[missing:]
        return bytes(data)


def _read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """Read a small file as a whole."""
    if not entry.isreg() or entry.size > MAX_FILE_BYTES:
        raise InvalidImageArchive(f"its {entry.name} is not a file of at most {MAX_FILE_BYTES >> 20} MiB")
    return b"".join(_content(archive, entry))


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    remaining, source = entry.size, archive.extractfile(entry)
    while remaining and source is not None:
        chunk = source.read(min(_CHUNK_BYTES, remaining))
        if not chunk:
            raise InvalidImageArchive("it is truncated")
        remaining -= len(chunk)
        yield chunk


def _filtered_manifest(content: bytes, image: str, config_names: set[str]) -> dict[str, Any]:
    """Return the manifest of ``image`` alone, with no tags but the project's own."""
    try:
        document: Any = json.loads(content)
        (entry,) = document
        tags = [name for name in entry.get("RepoTags") or () if is_project_tag(name, image)]
        config_name, layers = entry["Config"], entry["Layers"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidImageArchive("it does not contain exactly one image") from error
    if not isinstance(layers, list):
        raise InvalidImageArchive("its manifest lists no layers")
    if config_name not in config_names:
        raise InvalidImageArchive("it contains a different image")
    return {"Config": config_name, "RepoTags": tags or None, "Layers": layers}


def _copy(archive: tarfile.TarFile, entry: tarfile.TarInfo, content: ArchiveContent) -> Iterator[bytes]:
    yield entry.tobuf(tarfile.GNU_FORMAT)
    if entry.isreg():
        digest = hashlib.sha256()
        for piece in _content(archive, entry):
            digest.update(piece)
            yield piece
        content.add(entry.name, digest.hexdigest())
        yield bytes(-entry.size % tarfile.BLOCKSIZE)


def _file(name: str, content: bytes) -> Iterator[bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    yield entry.tobuf(tarfile.GNU_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)
