"""Reproducible archives: a tar file with sorted entries, one time, root as owner; and its compression.

xz streams of fixed parts, one after the other: each part is compressed on a thread of its own, and the bytes do not
depend on the number of threads. ``xz`` and ``tar -xJ`` read them as one file.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

_PART: Final = 32 << 20
_CHUNK: Final = 1 << 20


def entries(folder: Path) -> Iterator[Path]:
    """Yield all files, links and folders below a folder, sorted by their paths; links are not followed."""
    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from entries(path)


def write_tar(folder: Path, target: Path, prefix: str, epoch: int) -> None:
    """Write a folder's content as a tar file, with all paths below ``prefix``."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        tar.addfile(_entry(folder, prefix, epoch))
        for path in entries(folder):
            entry = _entry(path, f"{prefix}/{path.relative_to(folder)}", epoch)
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)


def _entry(path: Path, name: str, epoch: int) -> tarfile.TarInfo:
    """Return the entry of a file; nothing in it depends on the machine or the time of the build."""
    entry = tarfile.TarInfo(name)
    stat = path.lstat()
    entry.mtime = epoch
    entry.uname = entry.gname = "root"
    entry.mode = stat.st_mode & 0o777
    if path.is_symlink():
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
    elif path.is_dir():
        entry.type = tarfile.DIRTYPE
    elif path.is_file():
        entry.size = stat.st_size
    else:
        raise ValueError(f"{path} is neither a file nor a folder nor a link")
    return entry


def compress(source: Path, target: Path, preset: int) -> None:
    """Write ``source`` as an xz file."""
    workers = os.cpu_count() or 1
    waiting: deque[Future[bytes]] = deque()
    with source.open("rb") as file, target.open("wb") as out, ThreadPoolExecutor(workers) as pool:
        while True:
            part = file.read(_PART)
            if part:
                waiting.append(pool.submit(lzma.compress, part, lzma.FORMAT_XZ, lzma.CHECK_CRC64, preset))
            # Parts in memory: one for each thread, and one that is read.
            while waiting and (not part or len(waiting) > workers):
                out.write(waiting.popleft().result())
            if not part:
                return


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file's rest as hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
