"""A cache of a prefix that is true, or says that it is not: list, then watch, then list again.

The first list is taken at one linearizable revision; the watch goes on from the next. A lost watch is resumed after
the last revision that is in the cache; where that is compacted, or the cluster turns out to have another history
(restored from a snapshot, replaced), the prefix is listed again and the cache replaced in one step. What cannot be
read is not empty: until a list has succeeded, the cache stays as it was and :attr:`Informer.connected` is False.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from devopsellence.store.codec import decode
from devopsellence.store.errors import Compacted, MalformedRecord, StoreError, WatchLost
from devopsellence.store.etcd import Etcd, KeyListing, KeyValue, WatchBatch
from devopsellence.store.record import Record
from devopsellence.store.retry import repeat

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_LONGEST_BACKOFF: Final = 5.0
# How many records are decoded before others get their turn on the loop.
_DECODE_CHUNK: Final = 100
# A restored cluster whose revision has already caught up looks like the old one to a watch. So soon after every
# reconnection the prefix is listed again; spread, so that a thousand agents do not ask at once.
_VERIFY_SECONDS: Final = (1.0, 5.0)


class Informer(Generic[M]):
    """Keeps the records under ``prefix`` (ending with ``/``; a name without is that one key) while :meth:`run` runs.

    Args:
        kind: the message that the values hold.
        on_change: called with a key on the event loop, after the cache holds the key's new state: put, deleted, found
            to differ by a list, and for every key on a resync. It must not block; what it raises is logged.
        resync_seconds: how often the prefix is listed again although nothing is wrong (give or take a tenth).
        on_connection: called on the event loop whenever :attr:`connected` has changed.
    """

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        kind: type[M],
        on_change: Callable[[str], None],
        *,
        resync_seconds: float = 600,
        on_connection: Callable[[], None] | None = None,
    ) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._kind = kind
        self._on_change = on_change
        self._on_connection = on_connection
        self._resync_seconds = resync_seconds
        self._records: dict[str, Record[M]] = {}
        self._view = MappingProxyType(self._records)
        # Of the raw values: tells whether a listed value is the one in the cache, whatever the revisions say.
        self._hashes: dict[str, int] = {}
        # What this process itself is about to write, by key.
        self._expected: dict[str, tuple[bytes, M]] = {}
        self._synced = asyncio.Event()
        self._problem = f"{prefix} has not been read yet"
        self._epoch = 0
        # All changes up to this revision of this cluster are in the cache.
        self._revision = 0
        self._cluster_id = 0
        self._raft_term = 0
        # The next step begins with a list.
        self._must_list = True
        # When the next resync is due, on the loop's clock; then every key is reported.
        self._resync_at = 0.0
        self._report_all = False

    @property
    def records(self) -> Mapping[str, Record[M]]:
        """The cache, by key: a read-only live view."""
        return self._view

    @property
    def connected(self) -> bool:
        """False: what the cache says may be old, and before the first list, missing."""
        return not self._problem

    @property
    def problem(self) -> str:
        """Why it is not connected, in a sentence; "" when it is."""
        return self._problem

    @property
    def epoch(self) -> int:
        """How often etcd has come back with another history (restored from a snapshot, replaced)."""
        return self._epoch

    def expect(self, key: str, value: bytes, message: M) -> None:
        """This process is about to write ``value``, which stands for ``message``, at ``key``: when that comes by, it is
        not parsed. Anything else that comes by instead is. ``message`` may not be changed any more."""
        self._expected[key] = (value, message)

    async def synced(self) -> None:
        """Return once the first list is in the cache."""
        await self._synced.wait()

    async def run(self) -> None:
        """Keep the cache until cancelled. No error ends it: each is shown by :attr:`problem` and tried again."""
        await repeat(self._follow, self._failed, longest=_LONGEST_BACKOFF)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Compacted):
            self._must_list = True
        if isinstance(error, StoreError):
            log.info("watch interrupted", extra={"prefix": self._prefix, "reason": str(error)})
        else:
            # Ours to mend, but no reason to stop: what is cached stays.
            self._must_list = True
            log.error("watch failed", extra={"prefix": self._prefix}, exc_info=error)
        self._set_problem(f"{self._prefix} cannot be watched: {str(error) or type(error).__name__}")

    async def _follow(self) -> None:
        """List, unless the watch can be resumed; then watch until it is time to list again."""
        loop = asyncio.get_running_loop()
        list_at = loop.time() + random.uniform(*_VERIFY_SECONDS)  # noqa: S311
        if self._must_list:
            await self._list()
            list_at = self._resync_at
        try:
            async with asyncio.timeout_at(min(list_at, self._resync_at)) as until:
                await self._watch()
        except TimeoutError:
            if not until.expired():
                raise
            self._must_list = True
            self._report_all = loop.time() >= self._resync_at

    async def _list(self) -> None:
        """Replace the cache, in one step, by what etcd holds now; report what differs, or everything on a resync."""
        listing = await self._etcd.list(self._prefix)
        records, hashes = await self._decoded(listing)
        keys = records.keys() | self._records.keys()
        changed = [key for key in keys if self._report_all or records.get(key) is not self._records.get(key)]
        if self._is_other_history(listing):
            self._epoch += 1
            values = {"prefix": self._prefix, "cluster_id": f"{listing.cluster_id:x}"}
            log.warning("etcd came back with another history", extra=values)
        self._revision, self._cluster_id = listing.revision, listing.cluster_id
        self._raft_term = listing.raft_term
        self._records.clear()
        self._records.update(records)
        self._hashes = hashes
        self._must_list, self._report_all = False, False
        self._resync_at = asyncio.get_running_loop().time() + self._resync_seconds * random.uniform(0.9, 1.1)  # noqa: S311
        self._set_problem("")
        self._synced.set()
        self._report(sorted(changed))

    async def _decoded(self, listing: KeyListing) -> tuple[dict[str, Record[M]], dict[str, int]]:
        """The listing's records: those that are in the cache already as the same objects."""
        records: dict[str, Record[M]] = {}
        hashes: dict[str, int] = {}
        for count, kv in enumerate(listing.items):
            if count % _DECODE_CHUNK == _DECODE_CHUNK - 1:
                await asyncio.sleep(0)
            hashes[kv.key] = hash(kv.value)
            old = self._records.get(kv.key)
            same = old and (old.create_revision, old.mod_revision) == (kv.create_revision, kv.mod_revision)
            if old and same and self._hashes.get(kv.key) == hashes[kv.key]:
                records[kv.key] = old
            else:
                records[kv.key] = self._record(kv)
        return records, hashes

    def _record(self, kv: KeyValue) -> Record[M]:
        expected = self._expected.pop(kv.key, None)
        if expected is not None and expected[0] == kv.value:
            return Record(kv.key, expected[1], None, kv.create_revision, kv.mod_revision)
        try:
            message = decode(self._kind, kv.key, kv.value)
        except MalformedRecord as error:
            log.info("record unreadable", extra={"key": kv.key, "reason": error.reason})
            return Record(kv.key, None, error, kv.create_revision, kv.mod_revision)
        return Record(kv.key, message, None, kv.create_revision, kv.mod_revision)

    async def _watch(self) -> None:
        """Apply changes as they come. Never returns.

        Raises:
            WatchLost, Compacted, …: as :meth:`Etcd.watch`; WatchLost also if the cluster has another history.
        """
        stands = False
        async with aclosing(self._etcd.watch(self._prefix, start_revision=self._revision + 1)) as batches:
            async for batch in batches:
                if not stands:
                    await self._check_history(batch)
                    stands = True
                    self._set_problem("")
                self._apply(batch)

    async def _check_history(self, batch: WatchBatch) -> None:
        """etcd accepts a watch from a revision that is yet to come, so it would wait in silence after a restore.

        A member that lags behind looks the same for a moment; only a linearizable read tells.
        """
        if batch.cluster_id == self._cluster_id and batch.revision >= self._revision:
            return
        if self._is_other_history(await self._etcd.head(self._prefix)):
            self._must_list = True
            raise WatchLost("etcd has another history than before (restored or replaced)")

    def _is_other_history(self, listing: KeyListing) -> bool:
        return self._revision > 0 and (
            listing.cluster_id != self._cluster_id
            or listing.revision < self._revision
            or listing.raft_term < self._raft_term
        )

    def _apply(self, batch: WatchBatch) -> None:
        known = self._revision
        changed: dict[str, None] = {}
        for event in batch.events:
            # Repeated (the list or the last watch had it), or going backwards.
            if event.mod_revision <= known or event.mod_revision < self._revision:
                continue
            self._revision = event.mod_revision
            changed[event.key] = None
            if event.kv is None:
                self._records.pop(event.key, None)
                self._hashes.pop(event.key, None)
                self._expected.pop(event.key, None)
            else:
                self._records[event.key] = self._record(event.kv)
                self._hashes[event.key] = hash(event.kv.value)
        if batch.progress:
            self._revision = max(self._revision, batch.revision)
        self._report(changed)

    def _report(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                self._on_change(key)
            except Exception:
                log.exception("on_change failed", extra={"key": key})

    def _set_problem(self, problem: str) -> None:
        was_connected, self._problem = self.connected, problem
        if self._on_connection and self.connected != was_connected:
            self._on_connection()
