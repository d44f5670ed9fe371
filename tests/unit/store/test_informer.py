"""Informer with lists and watches that repeat, run ahead, go backwards, break or lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import encode
from devopsellence.store.errors import Compacted, StoreError, Unavailable, WatchLost
from devopsellence.store.etcd import Etcd, KeyListing, KeyValue, WatchBatch, WatchEvent
from devopsellence.store.informer import Informer
from devopsellence.store.record import revision_of

PREFIX = "/p/nodes/"


def kv(name: str, revision: int, address: str | None = None, created: int | None = None) -> KeyValue:
    value = encode(stored_pb2.Node(address=address or str(revision)))
    return KeyValue(PREFIX + name, value, created or revision, revision, 1, 0)


def listing(revision: int, *items: KeyValue, cluster: int = 1, term: int = 1) -> KeyListing:
    return KeyListing(items, revision, cluster, term)


def put(name: str, revision: int) -> WatchEvent:
    return WatchEvent(PREFIX + name, kv(name, revision), revision)


def deleted(name: str, revision: int) -> WatchEvent:
    return WatchEvent(PREFIX + name, None, revision)


def batch(revision: int, *events: WatchEvent, progress: bool = False, cluster: int = 1) -> WatchBatch:
    return WatchBatch(revision, cluster, events, progress)


@dataclass
class FakeEtcd:
    """Answers from a script; a watch that has told its part breaks."""

    listings: list[KeyListing | StoreError]
    watches: list[Sequence[WatchBatch | StoreError]] = field(default_factory=list)
    heads: list[KeyListing] = field(default_factory=list)
    started_at: list[int] = field(default_factory=list)

    async def list(self, prefix: str) -> KeyListing:
        assert prefix == PREFIX
        answer = self.listings.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def head(self, prefix: str) -> KeyListing:
        return self.heads.pop(0)

    def next_verification(self) -> float:
        return inf

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        assert prefix == PREFIX
        self.started_at.append(start_revision)
        for step in self.watches.pop(0):
            if isinstance(step, StoreError):
                raise step
            yield step
        raise WatchLost("the script is over")


class Followed:
    """An informer that is run step by step: a step lists if it must, watches, and ends with an error."""

    def __init__(self, etcd: FakeEtcd) -> None:
        self.etcd = etcd
        self.reported: list[str] = []
        self.informer = Informer(cast("Etcd", etcd), PREFIX, stored_pb2.Node, self._on_change)

    def _on_change(self, key: str) -> None:
        self.reported.append(key.removeprefix(PREFIX))

    async def step(self) -> StoreError:
        with pytest.raises(StoreError) as caught:
            await self.informer._follow()
        self.informer._failed(caught.value)
        return caught.value

    @property
    def cache(self) -> dict[str, str]:
        return {
            key.removeprefix(PREFIX): record.message.address if record.message else "?"
            for key, record in self.informer.records.items()
        }


async def test_repeated_and_backward_events_are_dropped() -> None:
    fake = FakeEtcd(
        [listing(10, kv("a", 5), kv("b", 10))],
        [[batch(10), batch(12, put("a", 5), put("a", 12), put("a", 11), deleted("b", 10), put("c", 12), put("c", 9))]],
    )
    followed = Followed(fake)
    await followed.step()
    assert followed.cache == {"a": "12", "b": "10", "c": "12"}
    assert followed.reported == ["a", "b", "a", "c"]


async def test_own_writes_are_not_parsed_again() -> None:
    fake = FakeEtcd([listing(4)], [[batch(4), batch(7, put("mine", 5), put("theirs", 6), deleted("gone", 7))]])
    followed = Followed(fake)
    mine = stored_pb2.Node(address="5")
    for name in ("mine", "theirs", "gone"):
        followed.informer.expect(PREFIX + name, encode(mine), mine)
    await followed.step()
    assert followed.cache == {"mine": "5", "theirs": "6"}
    assert followed.informer.records[PREFIX + "mine"].message is mine
    assert not followed.informer._expected


async def test_deletion_is_not_undone_by_a_late_repetition() -> None:
    fake = FakeEtcd(
        [listing(4)], [[batch(4), batch(6, put("k", 5), deleted("k", 6), put("k", 5)), batch(6, put("k", 5))]]
    )
    followed = Followed(fake)
    await followed.step()
    assert followed.cache == {}


async def test_header_revision_may_be_ahead_of_events() -> None:
    fake = FakeEtcd([listing(10)], [[batch(100), batch(100, put("a", 11), put("b", 12))], [batch(100)]])
    followed = Followed(fake)
    await followed.step()
    await followed.step()
    assert fake.started_at == [11, 13]


async def test_progress_moves_the_resume_point() -> None:
    fake = FakeEtcd([listing(10)], [[batch(10), batch(50, progress=True)], [batch(50)]])
    followed = Followed(fake)
    await followed.step()
    await followed.step()
    assert fake.started_at == [11, 51]


async def test_lost_watch_is_resumed_without_a_list() -> None:
    fake = FakeEtcd([listing(10, kv("a", 10))], [[batch(10)], [batch(11), batch(11, put("b", 11))]])
    followed = Followed(fake)
    await followed.step()
    assert not followed.informer.connected
    await followed.step()
    assert followed.reported == ["a", "b"]


async def test_compaction_lists_again_and_reports_the_differences() -> None:
    fake = FakeEtcd(
        [listing(10, kv("a", 5), kv("b", 6), kv("c", 7)), listing(20, kv("a", 5), kv("c", 18, created=7), kv("d", 19))],
        [[batch(10)], [Compacted(15)], [batch(20)]],
    )
    followed = Followed(fake)
    await followed.step()
    kept = followed.informer.records[PREFIX + "a"]
    followed.reported.clear()
    assert isinstance(await followed.step(), Compacted)
    assert followed.cache == {"a": "5", "b": "6", "c": "7"}
    await followed.step()
    assert followed.cache == {"a": "5", "c": "18", "d": "19"}
    assert followed.reported == ["b", "c", "d"]
    assert followed.informer.records[PREFIX + "a"] is kept
    assert fake.started_at == [11, 11, 21]
    assert followed.informer.epoch == 0


async def test_failed_list_keeps_the_cache() -> None:
    fake = FakeEtcd([Unavailable("no"), listing(10, kv("a", 5)), Unavailable("gone")], [[batch(10)], [Compacted(15)]])
    followed = Followed(fake)
    await followed.step()
    assert followed.informer.problem == "/p/nodes/ cannot be watched: no"
    for _ in range(3):
        await followed.step()
    assert followed.cache == {"a": "5"}
    assert followed.informer.problem == "/p/nodes/ cannot be watched: gone"


async def test_lagging_member_is_not_another_history() -> None:
    fake = FakeEtcd([listing(10)], [[batch(8), batch(11, put("a", 11))]], heads=[listing(10)])
    followed = Followed(fake)
    await followed.step()
    assert followed.cache == {"a": "11"}
    assert followed.informer.epoch == 0


@pytest.mark.parametrize(
    ("told", "head"),
    [
        pytest.param(batch(8), listing(9), id="revision fell"),
        pytest.param(batch(30, cluster=2), listing(30, cluster=2), id="another cluster"),
        pytest.param(batch(8), listing(10, term=0), id="raft term fell"),
    ],
)
async def test_another_history_replaces_the_cache(told: WatchBatch, head: KeyListing) -> None:
    after = KeyListing((kv("a", 5, "another value"), kv("b", 6)), head.revision, head.cluster_id, head.raft_term)
    fake = FakeEtcd(
        [listing(10, kv("a", 5), kv("b", 6), kv("c", 7)), after],
        [[batch(10)], [told, batch(40, put("x", 40))], [batch(40, cluster=head.cluster_id)]],
        heads=[head],
    )
    followed = Followed(fake)
    await followed.step()
    followed.reported.clear()
    await followed.step()
    assert "x" not in followed.cache
    await followed.step()
    # a has the same revisions as before and another value: only comparing the value tells.
    assert followed.cache == {"a": "another value", "b": "6"}
    assert followed.reported == ["a", "c"]
    assert followed.informer.epoch == 1
    assert fake.started_at[-1] == head.revision + 1


async def test_unexpected_error_does_not_end_the_informer() -> None:
    fake = FakeEtcd([listing(10)], [[batch(10)]])
    followed = Followed(fake)
    await followed.step()
    followed.informer._failed(ZeroDivisionError())
    assert followed.informer.problem == "/p/nodes/ cannot be watched: ZeroDivisionError"


@dataclass
class History:
    """An honest etcd with a nervous network: any answer may be cut short, repeated, or begin with old news."""

    events: list[WatchEvent]
    draw: Any
    breaks: int
    told: int = 0

    def at(self, revision: int) -> dict[str, KeyValue]:
        state: dict[str, KeyValue] = {}
        for event in self.events[:revision]:
            state.pop(event.key, None)
            if event.kv:
                state[event.key] = event.kv
        return state

    async def list(self, prefix: str) -> KeyListing:
        # Linearizable: not older than anything that was told before.
        self.told = self.draw(st.integers(self.told, len(self.events)))
        return listing(self.told, *self.at(self.told).values())

    async def head(self, prefix: str) -> KeyListing:
        return listing(len(self.events))

    def next_verification(self) -> float:
        return inf

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        yield batch(self.draw(st.integers(0, len(self.events))))
        position = start_revision - 1
        while position < len(self.events):
            if self.breaks and self.draw(st.booleans()):
                self.breaks -= 1
                raise self.draw(st.sampled_from([WatchLost("broken"), Compacted(1)]))
            begin = self.draw(st.integers(0, position))
            end = self.draw(st.integers(position + 1, len(self.events)))
            position = self.told = max(end, self.told)
            yield batch(len(self.events), *self.events[begin:position])
        raise WatchLost("the end")


@settings(max_examples=60)
@given(
    changes=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12),
    draw=st.data(),
    breaks=st.integers(0, 4),
)
def test_cache_is_correct_after_any_network_fault(changes: list[tuple[str, bool]], draw: Any, breaks: int) -> None:
    events = [
        put(name, number) if written else deleted(name, number) for number, (name, written) in enumerate(changes, 1)
    ]
    history = History(events, draw.draw, breaks)
    seen: list[tuple[str, int]] = []

    def on_change(key: str) -> None:
        record = informer.records.get(key)
        seen.append((key, revision_of(record)))

    informer = Informer(cast("Etcd", history), PREFIX, stored_pb2.Node, on_change)

    async def run() -> None:
        while True:
            try:
                await informer._follow()
            except (WatchLost, Compacted) as error:
                informer._failed(error)
                if str(error) == "the end":
                    return

    asyncio.run(run())
    assert {key: record.mod_revision for key, record in informer.records.items()} == {
        key: item.mod_revision for key, item in history.at(len(events)).items()
    }
    # A state of a key is never told twice, and never goes backwards.
    for name in "abc":
        revisions = [revision for key, revision in seen if key == PREFIX + name and revision]
        assert revisions == sorted(set(revisions))
