"""Files of the agent's folder: all of them are read and written here.

The content that a file is to have stays in memory as well, so a file that somebody deleted or damaged is written again
(:meth:`StateFiles.check`), and a write that failed on a full or read-only disk is repeated until it succeeds
(``state_keeper``). Until then :attr:`StateFiles.problem` says what is wrong.

A file is replaced in one step: a temporary file is written, synced if its loss would matter, and renamed. A directory,
or anything else that is no file, in the place of a file is set aside and not removed. Methods block and belong on one
thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from devopsellence.atomic_file import sync_folder

#: Suffix of temporary files.
TEMPORARY: Final = ".tmp"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Size of the file that :meth:`StateFiles.probe` writes: a block, because an empty file fits on a full disk.
_PROBE_BYTES: Final = 4096
_PROBE: Final = "probe"
#: Inode, size, time of the last change of the content, and mode of a file.
_Stamp: TypeAlias = tuple[int, int, int, int]
_log = structlog.get_logger()


@dataclass(slots=True)
class _Stored:
    """Content that a file is to have. ``stamp``: of the file when it had this content; None: never written so far."""

    content: bytes
    sync: bool
    stamp: _Stamp | None = None


class NotAFile(OSError):
    """There is something in the place of a file that is no file."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


class StateFiles:
    """Files below ``root``. ``problem``: why the folder cannot be written, as a sentence; empty if it can.

    ``notify`` is called, on the thread of the call, when :attr:`problem` changes and when there is a new folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problem = ""
        self.notify: Callable[[], None] = _nothing
        #: Folders of all files known so far.
        self.folders = {root}
        self._stored: dict[Path, _Stored] = {}
        self._failures: dict[Path, OSError] = {}

    def read(self, path: Path) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: there is nothing at ``path``.
            OSError: it cannot be read, or is no file; the error names it.
        """
        return read_file(path)

    def adopt(self, path: Path, content: bytes) -> None:
        """Note that the file on disk has the right ``content``, as read before."""
        self._stored[path] = _Stored(content, sync=True, stamp=_stamp(path))
        self._note_folder(path.parent)

    def holds(self, path: Path, content: bytes) -> bool:
        """Return whether the file has this content, as far as is known. Reads a file of an earlier agent once."""
        stored = self._stored.get(path)
        if stored is None:
            try:
                found = read_file(path)
            except OSError:
                return False
            if found == content:
                self.adopt(path, content)
            return found == content
        return stored.stamp is not None and stored.content == content

    def write(self, path: Path, content: bytes, *, sync: bool, keep_trying: bool = True) -> None:
        """Replace the content of a file, readable only for this user; on disk on return if ``sync``.

        Raises:
            OSError: not written so far, see :meth:`retry`; or, without ``keep_trying``, not to be written any more.
        """
        before = self._stored.get(path)
        stored = self._stored[path] = _Stored(content, sync)
        try:
            self._store(path, stored)
        except OSError:
            if not keep_trying:
                self._take_back(path, before)
            raise
        self._note_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, if there is one; what is no file is set aside.

        Raises:
            OSError.
        """
        self._stored.pop(path, None)
        self._succeeded(path)
        try:
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            set_aside(path)

    def forget_folder(self, folder: Path) -> None:
        """Forget all files in a folder, which the caller removes."""
        for path in [path for path in self._stored if folder in path.parents]:
            del self._stored[path]
            self._succeeded(path)
        self.folders = {known for known in self.folders if known != folder and folder not in known.parents}

    def make_folder(self, folder: Path) -> None:
        """Create a folder if missing, readable only for this user; what is no folder is set aside.

        Raises:
            OSError.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except FileExistsError:
            set_aside(folder)
            folder.mkdir(mode=0o700)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)

    def check(self, paths: Iterable[Path] | None = None) -> list[Path]:
        """Write files again that somebody deleted or changed; return their paths. None: check all files."""
        restored = []
        for path in sorted(self._stored if paths is None else paths):
            stored = self._stored.get(path)
            if stored is None or stored.stamp is None or _is_intact(path, stored):
                continue
            with suppress(OSError):
                self._store(path, stored)
                _log.warning(
                    "a file of the agent was removed or changed by somebody; it is written again", path=str(path)
                )
                restored.append(path)
        return restored

    def retry(self) -> bool:
        """Repeat all failed writes; return whether every file is on disk now."""
        for path in sorted(self._failures):
            stored = self._stored.get(path)
            if stored is not None:
                with suppress(OSError):
                    self._store(path, stored)
        return not self._failures

    def probe(self) -> None:
        """Find out whether the folder can be written, by a small file."""
        with suppress(OSError):
            self.write(self.root / _PROBE, b"\0" * _PROBE_BYTES, sync=False)

    def _store(self, path: Path, stored: _Stored) -> None:
        try:
            stored.stamp = replace_file(path, stored.content, sync=stored.sync)
        except OSError as error:
            stored.stamp = None
            self._failures[path] = error
            self._update_problem()
            raise
        self._succeeded(path)

    def _take_back(self, path: Path, before: _Stored | None) -> None:
        """Let a file stay as it was before a failed write."""
        if before is not None:
            self._stored[path] = before
            return
        del self._stored[path]
        self._succeeded(path)
        self.probe()

    def _note_folder(self, folder: Path) -> None:
        if folder not in self.folders:
            self.folders.add(folder)
            self.notify()

    def _succeeded(self, path: Path) -> None:
        if self._failures.pop(path, None) is not None:
            self._update_problem()

    def _update_problem(self) -> None:
        path = min(self._failures, default=None)
        problem = "" if path is None else _sentence(self.root, path, self._failures[path])
        if problem != self.problem:
            self.problem = problem
            self.notify()


def read_file(path: Path) -> bytes:
    """Return the content of a file; a symbolic link to a file counts as the file.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        OSError: it cannot be read, or is no file; the error names it.
    """
    try:
        # Not blocking: opening a FIFO would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise NotAFile(path, "is a symbolic link to nothing, not a file") from error
        if path.parent.is_symlink():
            raise NotAFile(path, "is in a folder that is a symbolic link to nothing") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotAFile(path, f"is {'a folder' if stat.S_ISDIR(mode) else 'something else'}, not a file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def set_aside(path: Path) -> Path:
    """Rename something that is in the way of a file or folder of the agent; return its new path.

    Raises:
        OSError.
    """
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    _log.warning(
        "something was in the place of a file of the agent, and was set aside", path=str(path), aside=str(aside)
    )
    return aside


def replace_file(path: Path, content: bytes, *, sync: bool) -> _Stamp | None:
    """Replace a file in one step; return its stamp.

    Raises:
        OSError: the file is as before, and nothing is left of the attempt.
    """
    _make_private(path.parent)
    temporary = path.with_suffix(TEMPORARY)
    _clear(temporary)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(descriptor)
        try:
            temporary.replace(path)
        except IsADirectoryError:
            set_aside(path)
            temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)
    return _stamp(path)


def _make_private(folder: Path) -> None:
    """Create a folder and its parents if missing, all readable only for this user."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _clear(temporary: Path) -> None:
    """Remove what an interrupted write left."""
    try:
        temporary.unlink(missing_ok=True)
    except IsADirectoryError:
        set_aside(temporary)


def _stamp(path: Path) -> _Stamp | None:
    """Return the stamp of a file; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _is_intact(path: Path, stored: _Stored) -> bool:
    """Return whether a file is there with its content; a mere new time or mode is set right."""
    stamp = _stamp(path)
    if stamp == stored.stamp:
        return True
    if stamp is None or not stat.S_ISREG(stamp[3]):
        return False
    with suppress(OSError):
        if read_file(path) == stored.content:
            path.chmod(0o600)
            stored.stamp = _stamp(path)
            return True
    return False


def _sentence(root: Path, path: Path, error: OSError) -> str:
    """Return the sentence about a failed write, with what to do."""
    fix = "make it writable for the agent"
    if error.errno in _FULL:
        fix = "free space on its disk"
    elif error.errno == errno.EROFS:
        fix = "mount its disk so that it can be written"
    name = path.relative_to(root) if root in path.parents else path
    return f"the agent cannot write its folder {root} ({name}: {error.strerror or error}): {fix}"


def _nothing() -> None:
    pass
