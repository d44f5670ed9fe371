"""Informer: a local copy of a key prefix, kept up to date by list and watch.

The first list is taken at one linearizable revision; the watch starts at the next. A lost watch is resumed after the
last revision in the cache. If that revision is compacted, or the cluster has another history (restored from a snapshot,
replaced), the prefix is listed again and the cache replaced in one step. A failed read does not mean an empty prefix:
until a list succeeds, the cache is unchanged and :attr:`Informer.connected` is False.
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
# Number of records decoded before other tasks may run.
_DECODE_CHUNK: Final = 100


class Informer(Generic[M]):
    """Cache of the records under ``prefix`` (ends with ``/``, otherwise one key), up to date while :meth:`run` runs.

    Args:
        kind: message type of the values.
        on_change: called with a key on the event loop, after the cache holds the key's new state: put, deleted, found
            changed by a list, and for every key on a resync. Must not block; exceptions are logged.
        resync_seconds: interval of a full list even if nothing is wrong (varied by up to a tenth).
        on_connection: called on the event loop whenever :attr:`connected` changes.
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
        # Hashes of the raw values: show whether a listed value equals the cached one, whatever the revisions.
        self._hashes: dict[str, int] = {}
        # Values that this process is about to write, by key.
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
        # Time of the next resync on the loop's clock; a resync reports every key.
        self._resync_at = 0.0
        self._report_all = False

    @property
    def records(self) -> Mapping[str, Record[M]]:
        """Records by key: a read-only live view of the cache."""
        return self._view

    @property
    def connected(self) -> bool:
        """Return False if the cache may be out of date, or (before the first list) empty."""
        return not self._problem

    @property
    def problem(self) -> str:
        """Return the reason for not being connected, as a sentence; "" when connected."""
        return self._problem

    @property
    def epoch(self) -> int:
        """Return how many times etcd came back with another history (restored from a snapshot, replaced)."""
        return self._epoch

    def expect(self, key: str, value: bytes, message: M) -> None:
        """Announce that this process is about to write ``value``, the encoded ``message``, at ``key``.

        When the watch delivers exactly ``value``, the informer uses ``message`` without decoding. ``message`` must not
        be modified afterwards.
        """
        self._expected[key] = (value, message)

    async def synced(self) -> None:
        """Return once the first list is in the cache."""
        await self._synced.wait()

    async def run(self) -> None:
        """Keep the cache up to date until cancelled. Errors are shown by :attr:`problem` and retried."""
        await repeat(self._follow, self._failed, longest=_LONGEST_BACKOFF)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Compacted):
            self._must_list = True
        if isinstance(error, StoreError):
            log.info("watch interrupted", extra={"prefix": self._prefix, "reason": str(error)})
        else:
            # A bug, but no reason to stop: the cache stays as it is.
            self._must_list = True
            log.error("watch failed", extra={"prefix": self._prefix}, exc_info=error)
        self._set_problem(f"{self._prefix} cannot be watched: {str(error) or type(error).__name__}")

    async def _follow(self) -> None:
        """List, unless the watch can be resumed; then watch until the next list is due."""
        loop = asyncio.get_running_loop()
        # A watch cannot tell a restored cluster from the old one once the revision has caught up. The prefix is
        # therefore listed again soon after every reconnection.
        list_at = self._etcd.next_verification()
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
        """Replace the cache by a new list in one step; report changed keys, or all keys on a resync."""
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
        """Decode a listing; unchanged records are the same objects as in the cache."""
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
        """Apply changes from a watch. Never returns.

        Raises:
            WatchLost, Compacted, …: as :meth:`Etcd.watch`; WatchLost also if the cluster has another history.
        """
        established = False
        async with aclosing(self._etcd.watch(self._prefix, start_revision=self._revision + 1)) as batches:
            async for batch in batches:
                if not established:
                    await self._check_history(batch)
                    established = True
                    self._set_problem("")
                self._apply(batch)

    async def _check_history(self, batch: WatchBatch) -> None:
        """Raise WatchLost if etcd was restored or replaced: a watch from a future revision would wait silently.

        A lagging member looks the same for a moment; only a linearizable read shows the difference.
        """
        if batch.cluster_id == self._cluster_id and batch.revision >= self._revision:
            return
        if self._is_other_history(await self._etcd.head(self._prefix)):
            self._must_list = True
            raise WatchLost("etcd has a different history than before (restored or replaced)")

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
            # Repeated (already in the list or the last watch), or going backwards.
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
