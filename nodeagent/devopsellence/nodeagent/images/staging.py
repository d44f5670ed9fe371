"""Layers on their way to the engine: files under the agent's state folder, named by their digests.

A layer that is arriving is ``<64 hex>.part``; one that is here in full, with the digest that its name says, is
``<64 hex>.layer``. What has arrived stays when a connection breaks, and also when the agent is killed. Methods block,
and belong on a thread; one layer is written by one caller at a time (``api.images`` has the locks).
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

#: What nobody has touched for so long was given up by whoever sent it.
KEPT_SECONDS: Final = 86400.0
#: Read or written at a time.
PIECE_BYTES: Final = 1 << 20
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


def is_digest(text: str) -> bool:
    """Whether ``text`` is ``sha256:`` and 64 hex digits, and so may become a file's name here."""
    return _DIGEST.match(text) is not None


class DigestMismatch(Exception):
    """A layer is here in full, and is not what its name says; it has been thrown away."""


@dataclass(frozen=True, slots=True)
class StagedLayer:
    """How much of a layer is here; ``whole``: all of it, and it is the right one."""

    size: int = 0
    complete: bool = False


class LayerStaging:
    """The folder. ``folder`` is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The digest so far of a layer that has arrived in part, with its size, so that going on need not read it.
        self._hashes: dict[str, tuple[int, _Hash]] = {}

    def lookup(self, digest: str) -> StagedLayer:
        """What is here of a layer."""
        for path, whole in ((self._layer(digest), True), (self._part(digest), False)):
            with suppress(FileNotFoundError):
                return StagedLayer(path.stat().st_size, whole)
        return StagedLayer()

    def write(self, digest: str, size: int) -> IncomingLayer:
        """Go on with a layer of ``size`` bytes after what is here of it. OSError if the file cannot be written."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._part(digest)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            here = file.seek(0, os.SEEK_END)
            if here > size:
                here = file.truncate(0)
                file.seek(0)
            known, so_far = self._hashes.pop(digest, (-1, None))
            if so_far is None or known != here:
                so_far = _hash_of(file)
        except BaseException:
            file.close()
            raise
        return IncomingLayer(self, digest, size, file, here, so_far)

    def read(self, digest: str) -> Iterator[bytes]:
        """A whole layer, in pieces. FileNotFoundError if it is not here."""
        with self._layer(digest).open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def remove(self, digest: str) -> None:
        """A layer that is here in full is no longer needed."""
        self._layer(digest).unlink(missing_ok=True)

    def clean(self, now: float, *, keep: frozenset[str] = frozenset()) -> list[str]:
        """Remove what was last written over a day before ``now`` (wall clock), but for ``keep``; the digests of it."""
        gone = []
        with suppress(FileNotFoundError):
            for path in sorted(self.folder.iterdir()):
                digest = f"sha256:{path.stem}"
                if is_digest(digest) and digest not in keep and now - path.stat().st_mtime > KEPT_SECONDS:
                    path.unlink(missing_ok=True)
                    self._hashes.pop(digest, None)
                    gone.append(digest)
        return gone

    def free(self) -> int:
        """Bytes of room where layers are staged."""
        return free_bytes(self.folder)

    def finish(self, digest: str, correct: bool) -> None:
        """The last byte of a layer has been written (called by :class:`IncomingLayer`)."""
        if correct:
            self._part(digest).replace(self._layer(digest))
        else:
            self._part(digest).unlink(missing_ok=True)

    def remember(self, digest: str, size: int, so_far: _Hash) -> None:
        """Writing broke off (called by :class:`IncomingLayer`)."""
        self._hashes[digest] = (size, so_far)

    def _part(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix('sha256:')}.part"

    def _layer(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix('sha256:')}.layer"


class IncomingLayer:
    """A layer that is being written, until :meth:`close`; what has been written stays, whatever happens."""

    def __init__(
        self, staging: LayerStaging, digest: str, size: int, file: IO[bytes], here: int, so_far: _Hash
    ) -> None:
        self.received = here
        self._staging = staging
        self._digest = digest
        self._size = size
        self._file = file
        self._so_far = so_far

    def close(self) -> None:
        """No more of it for now."""
        self._file.close()
        if self._staging.lookup(self._digest).size and self.received < self._size:
            self._staging.remember(self._digest, self.received, self._so_far)

    @property
    def missing(self) -> int:
        """Bytes that have not arrived."""
        return self._size - self.received

    def add(self, piece: bytes | memoryview) -> None:
        """The next bytes. OSError if they cannot be written; what could be stays."""
        left = memoryview(piece)
        while left:
            written = self._file.write(left)
            self._so_far.update(left[:written])
            self.received += written
            left = left[written:]

    def finish(self) -> None:
        """All bytes are here. WrongDigest if they are the wrong ones."""
        correct = f"sha256:{self._so_far.hexdigest()}" == self._digest
        self._staging.finish(self._digest, correct)
        if not correct:
            raise DigestMismatch


def free_bytes(folder: Path) -> int:
    """Room for a user without privileges on the file system of ``folder``, or of what will hold it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _hash_of(file: IO[bytes]) -> _Hash:
    """The digest of what a file holds; it is left at its end."""
    file.seek(0)
    found = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        found.update(piece)
    return found
