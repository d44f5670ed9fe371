"""Single requests against a real etcd: results, and mapping of failures to errors."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from devopsellence.store.errors import Ambiguous, LeaseLost, NoSpace, Rejected, Unavailable
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete, Etcd, Put
from devopsellence.store.settings import Settings, SettingsError
from devopsellence.store.size import MAX_RECORD_BYTES, MAX_REQUEST_BYTES, RecordTooLarge
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd
from tests.support.ports import free_ports
from tests.support.relay import Relay

pytestmark = pytest.mark.etcd


async def test_key_is_written_read_and_deleted(etcd: Etcd) -> None:
    key = etcd.keys.node("n1")
    assert await etcd.get(key) is None
    first = await etcd.put(key, b"one")
    second = await etcd.put(key, b"two")
    found = await etcd.get(key)
    assert found is not None
    assert (found.key, found.value, found.version, found.lease) == (key, b"two", 2, 0)
    assert (found.create_revision, found.mod_revision) == (first, second)
    assert await etcd.delete(key) > second
    assert await etcd.get(key) is None


async def test_list_contains_only_the_prefix(etcd: Etcd) -> None:
    for name in ("n1", "n2"):
        await etcd.put(etcd.keys.node(name), name.encode())
    await etcd.put(etcd.keys.prefix + "nodes", b"not under the prefix")
    await etcd.put(etcd.keys.prefix + "nodes0", b"nor this")
    listing = await etcd.list(etcd.keys.nodes_prefix)
    assert [item.key for item in listing.items] == [etcd.keys.node("n1"), etcd.keys.node("n2")]
    names = await etcd.list(etcd.keys.nodes_prefix, keys_only=True)
    assert [item.value for item in names.items] == [b"", b""]
    head = await etcd.head(etcd.keys.nodes_prefix)
    assert (head.items, head.cluster_id) == ((), listing.cluster_id)
    assert head.revision >= listing.revision


async def test_name_without_slash_is_a_single_key(etcd: Etcd) -> None:
    for name in ("n1", "n10"):
        await etcd.put(etcd.keys.node(name), b"x")
    listing = await etcd.list(etcd.keys.node("n1"))
    assert [item.key for item in listing.items] == [etcd.keys.node("n1")]


async def test_pages_are_read_at_one_revision(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number:04d}" for number in range(1100)]
    puts = [Put(etcd.keys.node(name), b"old") for name in names]
    for start in range(0, len(puts), MAX_OPERATIONS):
        await etcd.txn([], puts[start : start + MAX_OPERATIONS])
    ask = etcd._connection.ask
    pages = 0

    async def ask_and_write(what, method, request, seconds, *, write=False, leader=True):  # type: ignore[no-untyped-def]
        nonlocal pages
        answer = await ask(what, method, request, seconds, write=write, leader=leader)
        if what.startswith("list"):
            pages += 1
            await etcd.put(puts[-1].key, b"new")
        return answer

    monkeypatch.setattr(etcd._connection, "ask", ask_and_write)
    listing = await etcd.list(etcd.keys.nodes_prefix)
    assert pages == 3
    assert [item.key for item in listing.items] == [put.key for put in puts]
    assert {item.value for item in listing.items} == {b"old"}


@pytest.mark.parametrize("present", [False, True])
async def test_compares(etcd: Etcd, *, present: bool) -> None:
    key, other = etcd.keys.node("n1"), etcd.keys.node("n2")
    revision = await etcd.put(key, b"x") if present else 0

    async def holds(compare: Compare) -> bool:
        return (await etcd.txn([compare], [Put(other, b"y")])).succeeded

    assert await holds(Compare.absent(key)) is not present
    assert await holds(Compare.exists(key)) is present
    assert await holds(Compare.unmodified(key, revision))
    assert not await holds(Compare.unmodified(key, revision + 1))
    assert await holds(Compare.created_at(key, revision))
    await etcd.put(key, b"again")
    assert not await holds(Compare.unmodified(key, revision))
    assert await holds(Compare.created_at(key, revision)) is present


async def test_transaction_is_atomic(etcd: Etcd) -> None:
    a, b = etcd.keys.node("a"), etcd.keys.node("b")
    await etcd.put(a, b"a")
    refused = await etcd.txn([Compare.exists(a), Compare.exists(b)], [Put(b, b"b"), Delete(a)])
    assert not refused.succeeded
    assert [item.key for item in (await etcd.list(etcd.keys.nodes_prefix)).items] == [a]
    done = await etcd.txn([Compare.exists(a), Compare.absent(b)], [Put(b, b"b"), Delete(a)])
    listing = await etcd.list(etcd.keys.nodes_prefix)
    assert [(item.key, item.mod_revision) for item in listing.items] == [(b, done.revision)]


async def test_etcd_refusals_are_distinguished(etcd: Etcd) -> None:
    key = etcd.keys.node("n1")
    with pytest.raises(Rejected, match="duplicate key"):
        await etcd.txn([], [Put(key, b"1"), Put(key, b"2")])
    with pytest.raises(Rejected, match=r"larger than max|too large"):
        await etcd.put(key, b"x" * 3_000_000)
    with pytest.raises(LeaseLost, match="lease not found"):
        await etcd.put(key, b"x", lease=42)
    with pytest.raises(ValueError, match="101 operations"):
        await etcd.txn([], [Delete(f"{key}{number}") for number in range(101)])
    with pytest.raises(ValueError, match="101 compares"):
        await etcd.txn([Compare.exists(key)] * 101, [])
    assert await etcd.get(key) is None


async def test_largest_allowed_writes_are_accepted_by_etcd(etcd: Etcd) -> None:
    key = etcd.keys.node("n1")
    await etcd.put(key, b"x" * MAX_RECORD_BYTES)
    rest = MAX_REQUEST_BYTES - MAX_RECORD_BYTES - 9000
    written = await etcd.txn([Compare.exists(key)], [Put(key, b"y" * MAX_RECORD_BYTES), Put(f"{key}2", b"z" * rest)])
    assert written.succeeded
    with pytest.raises(RecordTooLarge, match=f"^{key} is too large: "):
        await etcd.txn(
            [], [Put(f"{key}3", b"z" * rest), Put(key, b"y" * MAX_RECORD_BYTES), Put(f"{key}4", b"z" * 5000)]
        )
    assert await etcd.get(f"{key}4") is None


async def test_revoked_lease_deletes_keys_and_revoke_is_idempotent(etcd: Etcd) -> None:
    lease = await etcd.grant_lease(60)
    key = etcd.keys.heartbeat("n1")
    await etcd.put(key, b"x", lease=lease)
    found = await etcd.get(key)
    assert found is not None
    assert found.lease == lease
    await etcd.revoke_lease(lease)
    assert await etcd.get(key) is None
    await etcd.revoke_lease(lease)


async def test_member_reports_version(etcd: Etcd) -> None:
    member = await etcd.member()
    assert member.version.startswith("3.")
    assert member.cluster_id
    assert member.alarms == ()


async def test_unreachable_endpoint_is_unavailable() -> None:
    (port,) = free_ports(1)
    async with Etcd(Settings((f"127.0.0.1:{port}",)), timeout=0.3) as etcd:
        for attempt in (etcd.get("/a"), etcd.put("/a", b""), etcd.txn([], [Delete("/a")]), etcd.grant_lease(5)):
            with pytest.raises(Unavailable, match=rf"does not answer at 127\.0\.0\.1:{port} .*[Cc]onnection refused"):
                await attempt
        with pytest.raises(Unavailable):
            await anext(etcd.watch("/a/", start_revision=1))


async def test_unanswered_write_is_ambiguous_and_an_unanswered_read_is_not(etcd_server: EtcdServer) -> None:
    async with Relay(etcd_server.port) as relay, Etcd(Settings((relay.endpoint,)), timeout=0.4) as etcd:
        key = f"/{uuid.uuid4().hex}/a"
        await etcd.put(key, b"1")
        relay.hold_answers()
        for write in (etcd.put(key, b"2"), etcd.delete(f"{key}b"), etcd.txn([Compare.exists(key)], [Put(key, b"3")])):
            with pytest.raises(Ambiguous, match="may have happened"):
                await write
        with pytest.raises(Unavailable):
            await etcd.get(key)
        with pytest.raises(Unavailable):
            await etcd.grant_lease(5)
        relay.release()
        found = await etcd.get(key)
        assert found is not None
        assert found.value == b"3"


async def test_write_is_sent_once_to_a_listening_member(tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path) as server:
        async with Etcd(server.settings(), timeout=0.5) as etcd:
            await etcd.put("/a", b"1")
            server.pause()
            write = asyncio.create_task(etcd.put("/a", b"2"))
            await asyncio.sleep(0.1)
            server.kill()
            # The connection broke while it was on its way.
            with pytest.raises(Ambiguous):
                await write
            # Now there is none, so nothing is sent.
            with pytest.raises(Unavailable):
                await etcd.put("/a", b"3")
            await asyncio.to_thread(server.start)
            found = await etcd.get("/a")
            assert found is not None
            assert (found.value, found.version) in {(b"1", 1), (b"2", 2)}


async def test_read_survives_a_restart(tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path) as server:
        async with Etcd(server.settings()) as etcd:
            await etcd.put("/a", b"1")
            await asyncio.to_thread(server.stop)
            read = asyncio.create_task(etcd.get("/a"))
            write = asyncio.create_task(etcd.put("/b", b"2"))
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(3):
                found = await read
                await write
            assert found is not None


async def test_full_etcd_raises_no_space(tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path, arguments=("--quota-backend-bytes=300000",)) as server:
        async with Etcd(server.settings()) as etcd:

            async def fill() -> None:
                for number in range(100):
                    await etcd.put(f"/k{number}", b"x" * 100_000)

            with pytest.raises(NoSpace, match="etcdctl alarm disarm"):
                await fill()
            assert (await etcd.member()).alarms == ("NOSPACE",)
            assert await etcd.get("/k0")


async def test_another_member_answers_for_a_dead_or_silent_member(tmp_path: Path) -> None:
    need_etcd()
    (dead,) = free_ports(1)
    with EtcdServer(tmp_path) as server:
        async with Etcd(Settings((f"127.0.0.1:{dead}", server.endpoint))) as etcd:
            for number in range(10):
                await etcd.put(f"/k{number}", b"x")
    members = EtcdServer.cluster(tmp_path / "cluster", 3)
    try:
        for member in members:
            member.spawn()
        for member in members:
            await asyncio.to_thread(member.wait_ready)
        async with Etcd(Settings(tuple(member.endpoint for member in members)), timeout=3) as etcd:
            await etcd.put("/a", b"x")
            # Wait for all connections, so that reads really go round.
            for _ in range(20):
                await etcd.get("/a")
            members[0].pause()
            for _ in range(4):
                assert await etcd.get("/a")
    finally:
        for member in members:
            member.kill()


async def test_foreign_certificates_are_rejected(tmp_path: Path) -> None:
    need_etcd()
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    with EtcdServer(tmp_path / "etcd", authority=authority) as server:
        settings = server.settings(user="someone")
        async with Etcd(settings) as etcd:
            await etcd.put("/a", b"1")
        other = stranger.issue("someone")
        wrong = Settings(settings.endpoints, authority.ca_cert, other.certificate, other.key)
        async with Etcd(wrong, timeout=0.5) as etcd:
            with pytest.raises(Unavailable, match="does not answer"):
                await etcd.get("/a")
        misnamed = Settings(settings.endpoints, settings.ca_cert, settings.cert, settings.key, "elsewhere.internal")
        async with Etcd(misnamed, timeout=0.5) as etcd:
            with pytest.raises(Unavailable, match="Hostname Verification"):
                await etcd.get("/a")
        missing = Settings(settings.endpoints, tmp_path / "nothing.pem", settings.cert, settings.key)
        with pytest.raises(SettingsError, match=r"nothing\.pem"):
            async with Etcd(missing):
                pass


async def test_lists_of_one_moment_are_of_one_revision(settings: Settings) -> None:
    async with Etcd(settings, joins_lists=True) as etcd:
        prefixes = [f"{settings.prefix}joined-{number}/" for number in range(40)]
        for prefix in prefixes:
            await etcd.put(f"{prefix}key", prefix.encode())

        async def write() -> None:
            while True:
                await etcd.put(f"{settings.prefix}other", b"")

        writing = asyncio.create_task(write())
        listings = await asyncio.gather(*(etcd.list(prefix) for prefix in prefixes))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert [[item.value for item in listing.items] for listing in listings] == [[p.encode()] for p in prefixes]
        # Sixteen in each request.
        assert len({listing.revision for listing in listings}) <= 3
        # Pages that follow are requests of their own.
        for start in range(0, 600, 100):
            await etcd.txn([], [Put(f"{prefixes[0]}{number:04}", b"") for number in range(start, start + 100)])
        large, small = await asyncio.gather(etcd.list(prefixes[0]), etcd.list(prefixes[1]))
        assert (len(large.items), len(small.items)) == (601, 1)
