"""Staging folder for uploaded layers: files under the agent's state folder, named after digests.

A partial layer is ``<64 hex>.part``, a complete and verified layer ``<64 hex>.layer``. Partial layers survive a broken
connection and a killed agent. Methods block and belong on a thread; a layer has a single writer at a time (locks are in
``api.images``).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hashlib import _Hash

#: An upload without progress for this long was abandoned.
RETENTION_SECONDS: Final = 86400.0
#: Size of reads and writes.
CHUNK_BYTES: Final = 1 << 20
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


def is_digest(text: str) -> bool:
    """Return True for ``sha256:`` with 64 hex digits, which is safe as a file name."""
    return _DIGEST.match(text) is not None


class DigestMismatch(Exception):
    """A complete layer does not match its digest, and was discarded."""


@dataclass(frozen=True, slots=True)
class StagedLayer:
    """Staged bytes of a layer; ``complete``: all bytes, verified."""

    size: int = 0
    complete: bool = False


class LayerStaging:
    """The staging folder, created on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Size and hash state of partial layers, so that a continued upload need not read the file again.
        self._hashes: dict[str, tuple[int, _Hash]] = {}

    def lookup(self, digest: str) -> StagedLayer:
        """Return the staged part of a layer."""
        for path, complete in ((self._layer(digest), True), (self._part(digest), False)):
            with suppress(FileNotFoundError):
                return StagedLayer(path.stat().st_size, complete)
        return StagedLayer()

    def write(self, digest: str, size: int) -> IncomingLayer:
        """Continue writing a layer of ``size`` bytes after the staged part. OSError if not writable."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._part(digest)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            received = file.seek(0, os.SEEK_END)
            if received > size:
                received = file.truncate(0)
                file.seek(0)
            known_size, digest_so_far = self._hashes.pop(digest, (-1, None))
            if digest_so_far is None or known_size != received:
                digest_so_far = _hash_of(file)
        except BaseException:
            file.close()
            raise
        return IncomingLayer(self, digest, size, file, received, digest_so_far)

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield a complete layer in pieces. FileNotFoundError if missing."""
        with self._layer(digest).open("rb", buffering=0) as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    def remove(self, digest: str) -> None:
        """Remove a complete layer."""
        self._layer(digest).unlink(missing_ok=True)

    def clean(self, now: float, *, keep: frozenset[str] = frozenset()) -> list[str]:
        """Remove files without a write for a day before ``now`` (wall clock), except ``keep``; return their digests."""
        removed = []
        with suppress(FileNotFoundError):
            for path in sorted(self.folder.iterdir()):
                digest = f"sha256:{path.stem}"
                if is_digest(digest) and digest not in keep and now - path.stat().st_mtime > RETENTION_SECONDS:
                    path.unlink(missing_ok=True)
                    self._hashes.pop(digest, None)
                    removed.append(digest)
        return removed

    def count(self) -> int:
        """Return the number of files."""
        return sum(1 for _ in self.folder.iterdir()) if self.folder.exists() else 0

    def free(self) -> int:
        """Return the free bytes for staged layers."""
        return free_bytes(self.folder)

    def finish(self, digest: str, correct: bool) -> None:
        """Rename a fully written layer, or discard an incorrect layer (called by :class:`IncomingLayer`)."""
        if correct:
            self._part(digest).replace(self._layer(digest))
        else:
            self._part(digest).unlink(missing_ok=True)

    def remember(self, digest: str, size: int, digest_so_far: _Hash) -> None:
        """Keep the hash state of an interrupted upload (called by :class:`IncomingLayer`)."""
        self._hashes[digest] = (size, digest_so_far)

    def _part(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix('sha256:')}.part"

    def _layer(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix('sha256:')}.layer"


class IncomingLayer:
    """A layer during upload, until :meth:`close`; written bytes stay in any case."""

    def __init__(
        self, staging: LayerStaging, digest: str, size: int, file: IO[bytes], received: int, digest_so_far: _Hash
    ) -> None:
        self.received = received
        self._staging = staging
        self._digest = digest
        self._size = size
        self._file = file
        self._digest_so_far = digest_so_far

    def close(self) -> None:
        """Close the file, keeping the written part."""
        self._file.close()
        if self._staging.lookup(self._digest).size and self.received < self._size:
            self._staging.remember(self._digest, self.received, self._digest_so_far)

    def discard(self) -> None:
        """Remove what was written: the layer is not the one announced."""
        self._staging.finish(self._digest, correct=False)

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self._size - self.received

    def add(self, piece: bytes | memoryview) -> None:
        """Write the next bytes. OSError if not writable; the bytes written before stay."""
        remaining = memoryview(piece)
        while remaining:
            written = self._file.write(remaining)
            self._digest_so_far.update(remaining[:written])
            self.received += written
            remaining = remaining[written:]

    def finish(self) -> None:
        """Verify a complete layer. DigestMismatch if incorrect."""
        correct = f"sha256:{self._digest_so_far.hexdigest()}" == self._digest
        self._staging.finish(self._digest, correct)
        if not correct:
            raise DigestMismatch


def free_bytes(folder: Path) -> int:
    """Return the free bytes, for users other than root, on the file system of ``folder`` (which need not exist yet)."""
    return shutil.disk_usage(_existing(folder)).free


def engine_free_bytes(folder: Path) -> int:
    """Return the free bytes for the engine's data in ``folder``; a huge number if the folder cannot be seen from here.

    The data of an engine in a container cannot.
    """
    return free_bytes(folder) if folder.exists() else 2**63


def total_bytes(folder: Path) -> int:
    """Return the size of the file system of ``folder`` (which need not exist yet)."""
    return shutil.disk_usage(_existing(folder)).total


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _hash_of(file: IO[bytes]) -> _Hash:
    """Hash a file, leaving the position at its end."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(CHUNK_BYTES):
        digest.update(piece)
    return digest
