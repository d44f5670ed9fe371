"""The audit trail on disk: written in batches beside the event loop, read, and followed.

No call waits for the disk, except a node's report, because the node deletes what is stored. While the disk refuses,
entries wait in memory, up to a limit, and the attempt is repeated: nothing tells when a disk has room again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import TRAIL, bound, new_id
from devopsellence.clock import Now
from devopsellence.controller.gateway.audit.day_files import DayFiles
from devopsellence.controller.gateway.audit.retention import AuditFile, Removal, day_of
from devopsellence.controller.gateway.audit.selection import Selection
from devopsellence.store.codec import encode, parse
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.identities import USER_CONTROLLER

DEFAULT_DAYS: Final = 90
DEFAULT_MIB: Final = 256
#: Kinds of entries, which have files of their own, so that no node takes the space of entries about operators.
_OWN, _NODES = "gateway", "nodes"
_MOST_WAITING: Final = 10_000
_RETRY_SECONDS: Final = 5.0
_LAST_WRITE_SECONDS: Final = 2.0
#: Lines that are parsed in one go on the thread.
_LINES: Final = 200
_MOST_UNREAD: Final = 10_000
#: Size of the entries from which on no further file is read for a request with a limit.
_MOST_BYTES: Final = 8 << 20
T = TypeVar("T")
_log = structlog.get_logger("gateway")


@dataclass(frozen=True)
class AuditOptions:
    """Folder of the audit trail, and how long and how large it may become."""

    folder: Path
    days: int = DEFAULT_DAYS
    max_bytes: int = DEFAULT_MIB << 20


class TrailUnavailable(Exception):
    """Entries cannot be stored now; the message says why."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Entry that is to be written. ``stored``: resolved when it is on disk, for those who wait for that."""

    kind: str
    entry: AuditEntry
    stored: asyncio.Future[None] | None = None


class Follower:
    """Queue of new entries for one reader."""

    def __init__(self) -> None:
        self.missed = False
        self._entries: deque[AuditEntry] = deque()
        self._wake = asyncio.Event()

    def add(self, entry: AuditEntry) -> None:
        if len(self._entries) >= _MOST_UNREAD:
            self.missed = True
        else:
            self._entries.append(entry)
        self._wake.set()

    def wake(self) -> None:
        """Let :meth:`next` return, with or without entries."""
        self._wake.set()

    async def next(self) -> list[AuditEntry]:
        """Wait for new entries and return them; none after :meth:`wake`."""
        await self._wake.wait()
        self._wake.clear()
        entries = list(self._entries)
        self._entries.clear()
        return entries


class AuditTrail:
    """Audit trail of one gateway; an async context manager that writes meanwhile."""

    def __init__(self, options: AuditOptions, clock: Callable[[], Now], *, retry: float = _RETRY_SECONDS) -> None:
        """``retry``: seconds until entries are written again that the disk refused."""
        self._options = options
        self._clock = clock
        self._retry = retry
        half = options.max_bytes // 2
        self._files = {kind: DayFiles(options.folder, kind, options.days, half) for kind in (_OWN, _NODES)}
        self._waiting: deque[_Waiting] = deque()
        self._left_out = 0
        self._wake = asyncio.Event()
        self._followers: set[Follower] = set()
        # One thread: batches are written in order, and a reader sees whole ones.
        self._writer = ThreadPoolExecutor(1, "audit")
        self._reader = ThreadPoolExecutor(1, "audit-read")
        self._writing: asyncio.Task[None] | None = None
        #: Why the newest entries are not on disk, as a sentence; empty if they are.
        self.problem = ""

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._writing is not None  # noqa: S101 - set by __aenter__
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self._write(list(self._waiting))
        # A disk that hangs does not keep the program.
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown(wait=False, cancel_futures=True)

    def add(self, entry: AuditEntry, *, of_node: bool = False) -> None:
        """Store an entry of the gateway itself, soon; ``of_node``: in the space of the nodes, as a call by one."""
        if len(self._waiting) >= _MOST_WAITING:
            self._left_out += 1
            return
        entry.left_out += self._left_out
        self._left_out = 0
        self._enqueue(_Waiting(_NODES if of_node else _OWN, entry))

    async def store(self, entries: Iterable[AuditEntry]) -> None:
        """Store entries that a node reports; they are on disk on return.

        Raises:
            TrailUnavailable: the disk refuses at present.
        """
        if self.problem or len(self._waiting) >= _MOST_WAITING:
            raise TrailUnavailable(self.problem or "the disk is too slow for the audit trail")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(_NODES, entry, loop.create_future()) for entry in entries]
        for one in waiting:
            self._enqueue(one)
        await asyncio.gather(*(one.stored for one in waiting if one.stored is not None))

    def _enqueue(self, waiting: _Waiting) -> None:
        bound(waiting.entry).at.FromNanoseconds(int(self._clock().wall * 1e9))
        self._waiting.append(waiting)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._waiting)
            try:
                await self._write(batch)
            except OSError as error:
                self._failed(batch, error)
                await asyncio.sleep(self._retry)
                self._wake.set()
                continue
            except Exception:  # noqa: BLE001 - logged with its traceback; the entries after it are written
                _log.exception("audit entries lost", entries=len(batch))
                self._drop(batch)
                continue
            for _ in batch:
                self._waiting.popleft()
            self._succeeded(batch)

    async def _write(self, batch: list[_Waiting]) -> None:
        """Write entries.

        Raises:
            OSError: not all of them are on disk.
        """
        today = day_of(self._clock().wall)
        loop = asyncio.get_running_loop()
        for kind, files in self._files.items():
            entries = [waiting.entry for waiting in batch if waiting.kind == kind]
            if entries:
                removed = await loop.run_in_executor(self._writer, partial(_append, files, entries, today))
                self._note_removal(kind, removed)

    def _failed(self, batch: Iterable[_Waiting], error: OSError) -> None:
        problem = f"the audit trail cannot be written to {self._options.folder}: {error.strerror or error}"
        if problem != self.problem:
            _log.error("audit trail not written", folder=str(self._options.folder), reason=error.strerror or str(error))
        if not self.problem:
            # Written with the others at last, so that the trail tells of the time.
            self._add_own(AuditEntry.FAILED, "write the audit trail", error.strerror or str(error))
        self.problem = problem
        reports = [waiting for waiting in batch if waiting.stored is not None]
        for waiting in reports:
            self._waiting.remove(waiting)
            if waiting.stored is not None and not waiting.stored.done():
                waiting.stored.set_exception(TrailUnavailable(problem))

    def _drop(self, batch: Iterable[_Waiting]) -> None:
        """Give entries up that cannot be written; nodes keep theirs."""
        for waiting in batch:
            self._waiting.popleft()
            if waiting.stored is not None and not waiting.stored.done():
                waiting.stored.set_exception(TrailUnavailable("the entries cannot be written"))

    def _succeeded(self, batch: Iterable[_Waiting]) -> None:
        if self.problem:
            _log.info("audit trail written again", folder=str(self._options.folder))
            self.problem = ""
        for waiting in batch:
            if waiting.stored is not None and not waiting.stored.done():
                waiting.stored.set_result(None)
            for follower in self._followers:
                follower.add(waiting.entry)

    def _note_removal(self, kind: str, removed: Removal | None) -> None:
        if removed is None or not removed.for_space:
            return
        until = removed.files[-1].day.isoformat()
        whose = "of nodes " if kind == _NODES else ""
        summary = f"delete entries {whose}up to {until} before their time: the audit trail has used up its space"
        _log.warning("audit trail shortened", kind=kind, until=until, files=len(removed.files))
        self._add_own(AuditEntry.ALLOWED, summary)

    def _add_own(self, outcome: AuditEntry.Outcome.ValueType, summary: str, reason: str = "") -> None:
        """Store an entry about the trail itself."""
        self.add(
            AuditEntry(id=new_id(), caller=USER_CONTROLLER, call=TRAIL, outcome=outcome, summary=summary, reason=reason)
        )

    @contextmanager
    def follower(self) -> Iterator[Follower]:
        """Return a follower of the entries that are written within the block."""
        follower = Follower()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def wake_followers(self) -> None:
        """Let every reader check its rights again."""
        for follower in self._followers:
            follower.wake()

    async def read(self, selection: Selection) -> AsyncIterator[list[AuditEntry]]:
        """Yield the chosen entries on disk, of each kind the oldest first."""
        for files in self._files.values():
            # On the thread that writes: between two batches.
            known = await asyncio.get_running_loop().run_in_executor(self._writer, files.files)
            known = [file for file in known if _may_have(file, selection)]
            if selection.request.limit:
                newest = await self._read(partial(_newest, files, known, selection))
                for start in range(0, len(newest), _LINES):
                    yield newest[start : start + _LINES]
                continue
            for file in known:
                chunks = files.lines(file, _LINES)
                while (found := await self._read(partial(_next_chosen, chunks, selection))) is not None:
                    if found:
                        yield found

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)


def _append(files: DayFiles, entries: Iterable[AuditEntry], today: date) -> Removal | None:
    return files.append(map(encode, entries), today)


def _may_have(file: AuditFile, selection: Selection) -> bool:
    request = selection.request
    return not (
        (request.HasField("since") and file.day < day_of(request.since.seconds))
        or (request.HasField("until") and file.day > day_of(request.until.seconds))
    )


def _newest(files: DayFiles, known: list[AuditFile], selection: Selection) -> list[AuditEntry]:
    """Return the newest chosen entries, oldest first. Blocks."""
    limit = selection.request.limit
    found: list[AuditEntry] = []
    size = 0
    for file in reversed(known):
        of_file: deque[AuditEntry] = deque(maxlen=limit - len(found))
        for lines in files.lines(file, _LINES):
            of_file.extend(_chosen(lines, selection))
        found = [*of_file, *found]
        size += sum(entry.ByteSize() for entry in of_file)
        if len(found) >= limit or size >= _MOST_BYTES:
            break
    return found


def _next_chosen(chunks: Iterator[list[bytes]], selection: Selection) -> list[AuditEntry] | None:
    """Return the chosen entries among the next lines; None at the end. Blocks."""
    lines = next(chunks, None)
    return None if lines is None else list(_chosen(lines, selection))


def _chosen(lines: Iterable[bytes], selection: Selection) -> Iterator[AuditEntry]:
    needles = selection.needles()
    for line in lines:
        if all(needle in line for needle in needles):
            # A crash may have cut a line.
            with suppress(MalformedRecord):
                entry = parse(AuditEntry, "", line)
                if selection.has(entry):
                    yield entry
