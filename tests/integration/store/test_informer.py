"""The informer against a real etcd that restarts, compacts, is restored and holds garbage."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store import etcd as etcd_module
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Delete, Etcd, Put
from devopsellence.store.informer import Informer
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd
from tests.support.relay import Relay

pytestmark = pytest.mark.etcd


class Following:
    """Running informer of nodes, with all reported keys."""

    def __init__(self, etcd: Etcd, *, resync_seconds: float = 600) -> None:
        self.reported: list[str] = []
        self._moved = asyncio.Event()
        self.informer = Informer(
            etcd,
            etcd.keys.nodes_prefix,
            stored_pb2.Node,
            self._on_change,
            resync_seconds=resync_seconds,
            on_connection=self._moved.set,
        )

    def _on_change(self, key: str) -> None:
        self.reported.append(key.rpartition("/")[2])
        self._moved.set()

    @property
    def addresses(self) -> dict[str, str | None]:
        records = self.informer.records.values()
        return {record.key.rpartition("/")[2]: record.message.address if record.message else None for record in records}

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    def forget(self) -> None:
        self.reported.clear()


@asynccontextmanager
async def following(etcd: Etcd, *, resync_seconds: float = 600) -> AsyncIterator[Following]:
    follow = Following(etcd, resync_seconds=resync_seconds)
    task = asyncio.create_task(follow.informer.run())
    try:
        async with asyncio.timeout(10):
            await follow.informer.synced()
        yield follow
        assert not task.done(), "nothing may end an informer"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def node(address: str) -> bytes:
    return encode(stored_pb2.Node(address=address))


async def put(etcd: Etcd, name: str, address: str) -> int:
    return await etcd.put(etcd.keys.node(name), node(address))


async def test_cache_follows_changes(etcd: Etcd) -> None:
    await put(etcd, "n1", "1")
    async with following(etcd) as follow:
        assert follow.informer.connected
        assert follow.addresses == {"n1": "1"}
        assert follow.reported == ["n1"]
        await etcd.txn([], [Delete(etcd.keys.node("n1")), Put(etcd.keys.node("n2"), node("2"))])
        await follow.until(lambda: follow.addresses == {"n2": "2"})
        assert follow.reported == ["n1", "n1", "n2"]
        record = follow.informer.records[etcd.keys.node("n2")]
        assert record.create_revision == record.mod_revision > 0


async def test_informer_follows_a_single_key(etcd: Etcd) -> None:
    await put(etcd, "n1", "1")
    await put(etcd, "n10", "10")
    changes: list[str] = []
    informer = Informer(etcd, etcd.keys.node("n1"), stored_pb2.Node, changes.append)
    task = asyncio.create_task(informer.run())
    await informer.synced()
    assert list(informer.records) == [etcd.keys.node("n1")]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_malformed_record_affects_only_its_key(etcd: Etcd) -> None:
    await etcd.put(etcd.keys.node("bad"), b"{not json")
    await put(etcd, "good", "1")
    async with following(etcd) as follow:
        assert follow.addresses == {"bad": None, "good": "1"}
        error = follow.informer.records[etcd.keys.node("bad")].error
        assert error is not None
        assert "does not hold a readable Node" in str(error)
        await etcd.put(etcd.keys.node("good"), b"\xff\xfe")
        await follow.until(lambda: follow.addresses == {"bad": None, "good": None})
        await put(etcd, "bad", "2")
        await put(etcd, "good", "3")
        await follow.until(lambda: follow.addresses == {"bad": "2", "good": "3"})


async def test_keys_that_are_not_text_are_harmless(etcd: Etcd) -> None:
    raw = etcd.keys.nodes_prefix.encode() + b"\xff\xfe"
    kv = etcd._connection._stubs.kv
    await kv.Put(rpc.PutRequest(key=raw, value=node("1")), timeout=5)
    async with following(etcd) as follow:
        await kv.Put(rpc.PutRequest(key=raw + b"2", value=b"\xff"), timeout=5)
        await put(etcd, "n1", "1")
        await follow.until(lambda: "n1" in follow.addresses)
        assert set(follow.addresses) == {r"\xff\xfe", r"\xff\xfe2", "n1"}
        for key in follow.informer.records:
            key.encode()  # can be printed


async def test_failing_callback_does_not_stop_the_informer(etcd: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(key: str) -> None:
        raise ZeroDivisionError(key)

    await put(etcd, "n1", "1")
    informer = Informer(etcd, etcd.keys.nodes_prefix, stored_pb2.Node, refuse)
    task = asyncio.create_task(informer.run())
    await informer.synced()
    assert informer.connected
    assert "ZeroDivisionError" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_resync_reports_every_key(etcd: Etcd) -> None:
    await put(etcd, "n1", "1")
    await put(etcd, "n2", "2")
    async with following(etcd, resync_seconds=0.2) as follow:
        before = dict(follow.informer.records)
        follow.forget()
        await follow.until(lambda: len(follow.reported) >= 4)
        assert follow.reported[:4] == ["n1", "n2", "n1", "n2"]
        assert all(follow.informer.records[key] is record for key, record in before.items())
        assert follow.informer.connected


async def test_etcd_restart_loses_and_repeats_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_module, "VERIFY_SECONDS", (0.2, 0.4))
    need_etcd()
    with EtcdServer(tmp_path) as server:
        async with Etcd(server.settings()) as etcd, Etcd(server.settings()) as writer:
            written: list[str] = []
            stop = asyncio.Event()

            async def write() -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    name = f"n{number}"
                    # An unanswered write may have happened: this name is not counted.
                    try:
                        await put(writer, name, str(number))
                    except Exception:  # noqa: BLE001, S112
                        continue
                    written.append(name)

            async with following(etcd) as follow:
                writing = asyncio.create_task(write())
                for restart in (server.stop, server.kill):
                    await asyncio.sleep(0.3)
                    await asyncio.to_thread(restart)
                    await asyncio.to_thread(server.start)
                await asyncio.sleep(0.8)
                stop.set()
                await writing
                await follow.until(lambda: set(written) <= set(follow.addresses))
                listing = await etcd.list(etcd.keys.nodes_prefix)
                assert {item.key for item in listing.items} == set(follow.informer.records)
                assert len(written) > 100
                assert set(Counter(follow.reported).values()) == {1}
                assert follow.informer.epoch == 0


async def test_cache_stays_but_is_disconnected_without_etcd(etcd_server: EtcdServer, settings: Settings) -> None:
    async with (
        Relay(etcd_server.port) as relay,
        Etcd(Settings((relay.endpoint,), prefix=settings.prefix), timeout=0.3) as etcd,
        Etcd(settings) as direct,
    ):
        await put(direct, "kept", "1")
        await put(direct, "doomed", "1")
        async with following(etcd) as follow:
            relay.refuse()
            await follow.until(lambda: not follow.informer.connected)
            assert "/nodes/ cannot be watched" in follow.informer.problem
            # Meanwhile one is deleted, one is new, and the history of it is compacted away.
            await direct.delete(direct.keys.node("doomed"))
            await put(direct, "new", "1")
            last = await put(direct, "other", "1")
            await asyncio.to_thread(etcd_server.etcdctl, "compact", str(last))
            await asyncio.sleep(0.5)
            assert follow.addresses == {"kept": "1", "doomed": "1"}
            follow.forget()
            relay.accept()
            await follow.until(lambda: follow.informer.connected)
            await follow.until(lambda: follow.addresses == {"kept": "1", "new": "1", "other": "1"})
            assert sorted(follow.reported) == ["doomed", "new", "other"]
            assert follow.informer.problem == ""
            assert follow.informer.epoch == 0


async def test_informer_waits_for_etcd(tmp_path: Path) -> None:
    need_etcd()
    server = EtcdServer(tmp_path)
    async with Etcd(server.settings(), timeout=0.3) as etcd:
        follow = Following(etcd)
        task = asyncio.create_task(follow.informer.run())
        await asyncio.sleep(0.5)
        assert not follow.informer.connected
        assert "nodes/" in follow.informer.problem
        try:
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(5):
                await follow.informer.synced()
            assert follow.informer.connected
        finally:
            server.kill()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("cluster", ["etcd-cluster", "another"])
async def test_restored_etcd_is_detected(tmp_path: Path, cluster: str) -> None:
    """With etcd's default cluster token, the restored cluster has the old id; only the revision decreases."""
    need_etcd()
    with EtcdServer(tmp_path / "etcd") as server:
        async with Etcd(server.settings()) as etcd:
            await put(etcd, "kept", "1")
            await put(etcd, "changed", "old")
            await put(etcd, "deleted", "1")
            server.snapshot(tmp_path / "snapshot")
            await put(etcd, "changed", "new")
            await put(etcd, "made", "1")
            await etcd.delete(etcd.keys.node("deleted"))
            async with following(etcd) as follow:
                assert follow.addresses == {"kept": "1", "changed": "new", "made": "1"}
                follow.forget()
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.restore, tmp_path / "snapshot", cluster=cluster)
                await asyncio.to_thread(server.start)
                await follow.until(lambda: follow.addresses == {"kept": "1", "changed": "old", "deleted": "1"})
                assert sorted(follow.reported) == ["changed", "deleted", "made"]
                assert follow.informer.epoch == 1
                # The revisions that follow have been seen before, with another meaning.
                await put(etcd, "changed", "newer")
                await follow.until(lambda: follow.addresses["changed"] == "newer")


async def test_emptied_etcd_is_detected(tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path / "etcd") as server:
        async with Etcd(server.settings()) as etcd:
            for name in ("n1", "n2"):
                await put(etcd, name, "1")
            async with following(etcd) as follow:
                await asyncio.to_thread(server.stop)
                server.wipe()
                await asyncio.to_thread(server.start)
                await follow.until(lambda: follow.addresses == {})
                assert follow.informer.epoch == 1
                await put(etcd, "n1", "again")
                await follow.until(lambda: follow.addresses == {"n1": "again"})


async def test_restored_etcd_with_same_revision_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revision and cluster id are unchanged; only the list after the reconnection shows the restore."""
    monkeypatch.setattr(etcd_module, "VERIFY_SECONDS", (0.2, 0.4))
    need_etcd()
    with EtcdServer(tmp_path / "etcd") as server:
        async with (
            Relay(server.port) as relay,
            Etcd(Settings((relay.endpoint,)), timeout=0.5) as etcd,
            Etcd(server.settings()) as direct,
        ):
            await put(direct, "n1", "old")
            server.snapshot(tmp_path / "snapshot")
            await put(direct, "n1", "new")
            async with following(etcd) as follow:
                relay.refuse()
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.restore, tmp_path / "snapshot", cluster="etcd-cluster")
                await asyncio.to_thread(server.start)
                for number in range(5):
                    await direct.put(f"/elsewhere/{number}", b"x")
                relay.accept()
                await follow.until(lambda: follow.addresses == {"n1": "old"})
