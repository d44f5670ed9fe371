"""Recent changes under the prefix, and the watchers that they are handed to. Pure: no IO, no clock.

Revisions from ``first`` to ``last`` are complete. A watcher is handed the changes of each revision at once, so that it
never sees half a transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from typing import Final

from devopsellence.controller.gateway.rules.grants import KeyRange, end_of
from devopsellence.etcd.v3 import etcd_pb2 as rpc

_MIB: Final = 1 << 20
#: Bytes of changes that are kept for watchers that resume.
BUFFER_BYTES: Final = 32 * _MIB
#: Bytes of changes that may wait for one watcher; a slower one is cut off, and resumes.
QUEUE_BYTES: Final = 8 * _MIB
#: Bytes of changes in one answer, unless one revision has more.
ANSWER_BYTES: Final = _MIB
# Of a change besides key and value.
_EVENT_BYTES: Final = 64


@dataclass(slots=True)
class Change:
    """All changes of one revision. Without events: progress, all changes up to the revision were handed out."""

    revision: int
    events: tuple[rpc.Event, ...] = ()

    @property
    def size(self) -> int:
        return sum(len(event.kv.key) + len(event.kv.value) + _EVENT_BYTES for event in self.events)


@dataclass(eq=False, slots=True)
class WatcherQueue:
    """Changes that wait for one watcher of ``keys``, from the revision ``start`` on."""

    keys: KeyRange
    start: int
    wants_progress: bool
    limit: int = QUEUE_BYTES
    waiting: deque[Change] = field(default_factory=deque)
    size: int = 0
    #: Why the watcher is cut off; empty while it is not.
    ended: str = ""

    def resume(self, missed: Sequence[Change]) -> None:
        """Begin with what the watcher has missed, of any size: the buffer holds it anyway."""
        self.waiting.extend(missed)
        self.size = sum(change.size for change in missed)
        self.limit += self.size

    def put(self, change: Change) -> None:
        """Add a change, or cut the watcher off if too much waits for it."""
        if self.ended or change.revision < self.start:
            return
        if self.size + change.size > self.limit and self.waiting:
            self.end("the watcher is too slow")
            return
        self.waiting.append(change)
        self.size += change.size

    def take(self) -> Change:
        """Return what waits as one change, as far as it fits an answer; progress is a change of its own."""
        taken = [self.waiting.popleft()]
        size = taken[0].size
        while taken[-1].events and self.waiting and self.waiting[0].events:
            if size + self.waiting[0].size > ANSWER_BYTES:
                break
            taken.append(self.waiting.popleft())
            size += taken[-1].size
        self.size -= size
        return Change(taken[-1].revision, tuple(event for change in taken for event in change.events))

    def end(self, reason: str) -> None:
        """Cut the watcher off; what waits is dropped, and the watcher resumes after the last change it got."""
        self.ended = self.ended or reason
        self.waiting.clear()
        self.size = 0


class WatchBuffer:
    """Buffer of recent changes, and its watchers."""

    def __init__(self, limit: int = BUFFER_BYTES) -> None:
        self._limit = limit
        self._changes: deque[Change] = deque()
        # The same changes by key and by each prefix of their keys: a watcher that resumes has mostly missed nothing,
        # and would else look through all of them. A failing gateway sends thousands of watchers to another one.
        self._changes_at: dict[bytes, deque[Change]] = {}
        self._size = 0
        self.first = 0
        self.last = 0
        self._by_key: dict[bytes, set[WatcherQueue]] = {}
        self._by_prefix: dict[bytes, set[WatcherQueue]] = {}
        # Watchers of ranges that are neither a key nor all keys under a prefix.
        self._others: set[WatcherQueue] = set()

    @property
    def watchers(self) -> int:
        return sum(1 for _ in self._all())

    def reset(self, revision: int, reason: str) -> list[WatcherQueue]:
        """Begin after ``revision``: forget all changes and cut off all watchers, which are returned."""
        self._changes.clear()
        self._changes_at.clear()
        self._size = 0
        self.first, self.last = revision + 1, revision
        return self.end_all(reason)

    def forget(self, reason: str) -> list[WatcherQueue]:
        """Forget the revisions of the changes, some of which were missed; cut off all watchers and return them."""
        self.first = self.last = 0
        return self.end_all(reason)

    def end_all(self, reason: str) -> list[WatcherQueue]:
        """Cut off all watchers and return them."""
        ended = list(self._all())
        for queue in ended:
            queue.end(reason)
        self._by_key.clear()
        self._by_prefix.clear()
        self._others.clear()
        return ended

    def append(self, events: Sequence[rpc.Event]) -> set[WatcherQueue]:
        """Add changes of one or more complete revisions; return the watchers that have something new."""
        touched: set[WatcherQueue] = set()
        for revision, of_revision in groupby(events, key=lambda event: event.kv.mod_revision):
            if revision <= self.last:
                continue
            change = Change(revision, tuple(of_revision))
            self._changes.append(change)
            for place in _places_of(change):
                self._changes_at.setdefault(place, deque()).append(change)
            self._size += change.size
            self.last = revision
            touched |= self._hand_out(change)
        while self._size > self._limit and len(self._changes) > 1:
            dropped = self._changes.popleft()
            for place in _places_of(dropped):
                self._changes_at[place].popleft()
                if not self._changes_at[place]:
                    del self._changes_at[place]
            self._size -= dropped.size
            self.first = dropped.revision + 1
        return touched

    def progress(self, revision: int) -> set[WatcherQueue]:
        """Note that all changes up to ``revision`` were added; return the watchers that want to know."""
        self.last = max(self.last, revision)
        touched = {queue for queue in self._all() if queue.wants_progress}
        for queue in touched:
            queue.put(Change(self.last))
        return touched

    def holds(self, start: int) -> bool:
        """Return True if no change from the revision ``start`` on is missing."""
        return bool(self.first) and (start == 0 or start >= self.first)

    def add(self, queue: WatcherQueue) -> None:
        """Add a watcher, and the changes since its start."""
        queue.start = queue.start or self.last + 1
        newest_first = takewhile(lambda change: change.revision >= queue.start, reversed(self._changes_in(queue.keys)))
        missed = [of_queue for change in newest_first if (of_queue := _of(queue.keys, change)) is not None]
        queue.resume(missed[::-1])
        self._places(queue).add(queue)

    def remove(self, queue: WatcherQueue) -> None:
        """Remove a watcher. Idempotent."""
        self._places(queue).discard(queue)
        for index in (self._by_key, self._by_prefix):
            if not index.get(queue.keys.first, True):
                del index[queue.keys.first]

    def _hand_out(self, change: Change) -> set[WatcherQueue]:
        touched = {queue for event in change.events for queue in self._watchers_of(event.kv.key)}
        for queue in touched:
            if (of_queue := _of(queue.keys, change)) is not None:
                queue.put(of_queue)
        return touched

    def _watchers_of(self, key: bytes) -> Iterator[WatcherQueue]:
        yield from self._by_key.get(key, ())
        for prefix in _prefixes(key):
            yield from self._by_prefix.get(prefix, ())
        for queue in self._others:
            if queue.keys.contains(key):
                yield queue

    def _changes_in(self, keys: KeyRange) -> deque[Change]:
        """Return changes among which are all in ``keys``, in their order."""
        return self._changes_at.get(keys.first, deque()) if keys.is_single or _is_prefix(keys) else self._changes

    def _places(self, queue: WatcherQueue) -> set[WatcherQueue]:
        keys = queue.keys
        if keys.is_single:
            return self._by_key.setdefault(keys.first, set())
        if _is_prefix(keys):
            return self._by_prefix.setdefault(keys.first, set())
        return self._others

    def _all(self) -> Iterator[WatcherQueue]:
        for queues in (*self._by_key.values(), *self._by_prefix.values(), self._others):
            yield from queues


def _of(keys: KeyRange, change: Change) -> Change | None:
    """Return the part of a change in a range; None for none."""
    events = tuple(event for event in change.events if keys.contains(event.kv.key))
    return Change(change.revision, events) if events else None


def _is_prefix(keys: KeyRange) -> bool:
    """Return True for the range of all keys under a prefix that ends with ``/``."""
    return keys.first.endswith(b"/") and keys.end == end_of(keys.first)


def _places_of(change: Change) -> set[bytes]:
    """Return the keys of a change and their prefixes."""
    keys = {event.kv.key for event in change.events}
    return keys.union(*map(_prefixes, keys))


def _prefixes(key: bytes) -> Iterable[bytes]:
    at = 0
    while (at := key.find(b"/", at) + 1) > 0:
        yield key[:at]
