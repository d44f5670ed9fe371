"""Recent changes and their watchers, without any etcd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.controller.gateway.rules.grants import KeyRange, end_of
from devopsellence.controller.gateway.watch_buffer import WatchBuffer, WatcherQueue
from devopsellence.etcd.v3 import etcd_pb2 as rpc


def event(key: str, revision: int, size: int = 1) -> rpc.Event:
    return rpc.Event(kv=rpc.KeyValue(key=key.encode(), mod_revision=revision, value=b"x" * size))


def prefix(name: str) -> KeyRange:
    return KeyRange(name.encode(), end_of(name.encode()))


def queue(keys: KeyRange, start: int = 0, *, progress: bool = False, limit: int = 1000) -> WatcherQueue:
    return WatcherQueue(keys, start, progress, limit)


def taken(watcher: WatcherQueue) -> list[tuple[int, list[str]]]:
    found = []
    while watcher.waiting:
        change = watcher.take()
        found.append((change.revision, [item.kv.key.decode() for item in change.events]))
    return found


def begun(limit: int = 10_000) -> WatchBuffer:
    buffer = WatchBuffer(limit)
    buffer.reset(10, "begin")
    return buffer


def test_watchers_get_the_changes_of_their_keys() -> None:
    buffer = begun()
    key, tree, odd = queue(KeyRange(b"/a/b")), queue(prefix("/a/")), queue(KeyRange(b"/a/b", b"/a/d"))
    for watcher in (key, tree, odd):
        buffer.add(watcher)
    assert buffer.append([event("/a/b", 11), event("/a/x", 11), event("/b/b", 12)]) == {key, tree, odd}
    assert taken(key) == [(11, ["/a/b"])]
    assert taken(tree) == [(11, ["/a/b", "/a/x"])]
    assert taken(odd) == [(11, ["/a/b"])]
    assert buffer.last == 12


def test_changes_wait_together_and_revisions_stay_whole() -> None:
    buffer = begun()
    watcher = queue(prefix("/"))
    buffer.add(watcher)
    buffer.append([event("/a", 11), event("/b", 12), event("/c", 12)])
    assert taken(watcher) == [(12, ["/a", "/b", "/c"])]


@pytest.mark.parametrize(("start", "expected"), [(0, []), (11, ["/a", "/b"]), (12, ["/b"]), (13, [])])
def test_watcher_resumes_at_its_revision(start: int, expected: list[str]) -> None:
    buffer = begun()
    buffer.append([event("/a", 11), event("/b", 12)])
    watcher = queue(prefix("/"), start)
    assert buffer.holds(start)
    buffer.add(watcher)
    assert [key for _, keys in taken(watcher) for key in keys] == expected


@given(
    st.lists(st.lists(st.sampled_from(["/a", "/a/b", "/a/b/c", "/a/bc", "/b", "/b/a"]), max_size=3, unique=True)),
    st.integers(0, 30),
    st.sampled_from([KeyRange(b"/a/b"), prefix("/a/"), prefix("/a/b/"), prefix("/"), KeyRange(b"/a", b"/b")]),
)
def test_watcher_that_resumes_gets_what_the_buffer_holds_of_its_keys(
    revisions: list[list[str]], start: int, keys: KeyRange
) -> None:
    buffer = begun(limit=1_000)
    changes = {11 + at: names for at, names in enumerate(revisions) if names}
    for revision, names in changes.items():
        buffer.append([event(name, revision, size=50) for name in names])
    start = max(start, buffer.first)
    watcher = queue(keys, start)
    buffer.add(watcher)
    expected = [
        (revision, matching)
        for revision, names in changes.items()
        if revision >= start and (matching := [name for name in names if keys.contains(name.encode())])
    ]
    assert [(change.revision, [item.kv.key.decode() for item in change.events]) for change in watcher.waiting] == (
        expected
    )


def test_watcher_ahead_gets_nothing_that_it_has_seen() -> None:
    buffer = begun()
    watcher = queue(prefix("/"), 13)
    buffer.add(watcher)
    buffer.append([event("/a", 11), event("/a", 12), event("/a", 13)])
    assert taken(watcher) == [(13, ["/a"])]


def test_repeated_changes_are_dropped() -> None:
    buffer = begun()
    watcher = queue(prefix("/"))
    buffer.add(watcher)
    buffer.append([event("/a", 11)])
    buffer.append([event("/a", 11), event("/a", 12)])
    assert [revision for revision, _ in taken(watcher)] == [12]


def test_full_buffer_drops_the_oldest_and_says_so() -> None:
    buffer = begun(limit=1_000)
    for revision in range(11, 40):
        buffer.append([event("/a", revision, size=100)])
    assert not buffer.holds(11)
    assert buffer.first > 30
    assert buffer.holds(buffer.first)
    assert not buffer.holds(buffer.first - 1)
    assert buffer.holds(0)


def test_slow_watcher_is_cut_off_and_resumes_from_any_backlog() -> None:
    buffer = begun()
    watcher = queue(prefix("/"), limit=300)
    buffer.add(watcher)
    for revision in range(11, 15):
        buffer.append([event("/a", revision, size=100)])
    assert watcher.ended
    assert not watcher.waiting
    again = queue(prefix("/"), 11, limit=300)
    buffer.add(again)
    buffer.append([event("/a", 15, size=100)])
    assert not again.ended
    assert taken(again)[-1][0] == 15


def test_progress_is_told_in_order_to_those_who_ask() -> None:
    buffer = begun()
    asking, other = queue(prefix("/"), progress=True), queue(prefix("/"))
    buffer.add(asking)
    buffer.add(other)
    buffer.append([event("/a", 11)])
    assert buffer.progress(20) == {asking}
    buffer.append([event("/a", 21)])
    assert taken(asking) == [(11, ["/a"]), (20, []), (21, ["/a"])]
    assert taken(other) == [(21, ["/a", "/a"])]


def test_reset_cuts_everybody_off() -> None:
    buffer = begun()
    watcher = queue(prefix("/"))
    buffer.add(watcher)
    assert buffer.reset(5, "another history") == [watcher]
    assert watcher.ended == "another history"
    assert (buffer.first, buffer.last, buffer.watchers) == (6, 5, 0)


def test_removed_watcher_gets_nothing() -> None:
    buffer = begun()
    watcher = queue(KeyRange(b"/a"))
    buffer.add(watcher)
    buffer.remove(watcher)
    buffer.remove(watcher)
    assert buffer.append([event("/a", 11)]) == set()
