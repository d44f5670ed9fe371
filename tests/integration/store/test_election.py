"""Elections against a real etcd: one leader at a time, and a deposed one writes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import decode
from devopsellence.store.election import LEASE_SECONDS, Election, Leadership
from devopsellence.store.errors import Fenced
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Etcd, Put
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.relay import Relay
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


class Candidate:
    """Candidate in a separate task; leads until stopped."""

    def __init__(self, etcd: Etcd, keeper: LeaseKeeper, name: str, ttl: int) -> None:
        self.leadership: Leadership | None = None
        self.terms = 0
        self._moved = asyncio.Event()
        self._resign = asyncio.Event()
        self.task = asyncio.create_task(Election(etcd, keeper, name, ttl=ttl).run(self._lead))

    async def _lead(self, leadership: Leadership) -> None:
        self.leadership = leadership
        self.terms += 1
        self._moved.set()
        try:
            await self._resign.wait()
            self._resign.clear()
        finally:
            self.leadership = None
            self._moved.set()

    def resign(self) -> None:
        self._resign.set()

    async def leads(self, seconds: float = 10) -> Leadership:
        async with asyncio.timeout(seconds):
            while self.leadership is None:
                self._moved.clear()
                await self._moved.wait()
        return self.leadership

    async def deposed(self, seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while self.leadership is not None:
                self._moved.clear()
                await self._moved.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def candidate(settings: Settings, name: str, ttl: int = 2) -> AsyncIterator[Candidate]:
    async with Etcd(settings, timeout=1) as etcd, LeaseKeeper(etcd) as keeper:
        stands = Candidate(etcd, keeper, name, ttl)
        try:
            yield stands
        finally:
            await stands.stop()


async def test_first_candidate_leads_and_clean_stop_hands_over_at_once(etcd: Etcd, settings: Settings) -> None:
    async with candidate(settings, "a", ttl=60) as a, AsyncExitStack() as stack:
        first = await a.leads()
        b = await stack.enter_async_context(candidate(settings, "b", ttl=60))
        listing = await etcd.list(etcd.keys.election_prefix)
        while len(listing.items) < 2:
            listing = await etcd.list(etcd.keys.election_prefix)
        assert b'"identity": "a"' in listing.items[0].value
        assert b.leadership is None
        await a.stop()
        second = await b.leads()
        assert second.create_revision > first.create_revision
        assert len((await etcd.list(etcd.keys.election_prefix)).items) == 1


async def test_returning_leader_steps_down_and_campaigns_again(settings: Settings) -> None:
    async with candidate(settings, "a") as a:
        await a.leads()
        a.resign()
        await a.deposed()
        await a.leads()
        assert a.terms == 2


async def test_leader_without_key_or_lease_is_cancelled(etcd: Etcd, settings: Settings) -> None:
    async with candidate(settings, "a", ttl=60) as a:
        first = await a.leads()
        await etcd.revoke_lease(first.lease.id)
        await a.deposed()
        second = await a.leads()
        await etcd.delete(second.key)
        await a.deposed()
        third = await a.leads()
        assert first.create_revision < second.create_revision < third.create_revision


async def test_busy_leader_keeps_leading(settings: Settings) -> None:
    """The loop is blocked, as by planning for thousands of nodes or a starved machine."""
    async with candidate(settings, "a", ttl=LEASE_SECONDS) as a:
        before = await a.leads()
        for _ in range(3):
            time.sleep(1.2)  # noqa: ASYNC251 - it is the loop that is to be held up
            assert (await before.txn([], [Put(settings.prefix + "written", b"1")])).succeeded
        assert a.leadership is before
        assert a.terms == 1


async def test_candidate_key_without_its_lease_does_not_lead(etcd: Etcd, settings: Settings) -> None:
    await etcd.put(etcd.keys.election_prefix + "garbage", b"\xff")
    await etcd.put(etcd.keys.candidate(42), b"{}")
    async with candidate(settings, "a") as a:
        await a.leads()


async def test_leader_key_detached_from_its_lease_is_given_up(etcd: Etcd, settings: Settings) -> None:
    """Such a key would never expire; no other candidate counts it, so its holder must not lead either."""
    async with candidate(settings, "a", ttl=60) as a:
        first = await a.leads()
        await etcd.put(first.key, b"by hand")
        await a.deposed()
        assert (await a.leads()).key != first.key


async def test_deleted_key_of_waiting_candidate_is_written_anew(etcd: Etcd, settings: Settings) -> None:
    async with candidate(settings, "a", ttl=60) as a, AsyncExitStack() as stack:
        first = await a.leads()
        await stack.enter_async_context(candidate(settings, "b", ttl=60))

        async def waiting() -> list[str]:
            keys = [item.key for item in (await etcd.list(etcd.keys.election_prefix)).items]
            return [key for key in keys if key != first.key]

        (deleted,) = await eventually("the second candidate", waiting)
        await etcd.delete(deleted)
        (again,) = await eventually("another candidacy", waiting)
        assert again != deleted
        assert a.leadership is first


async def test_network_loss_deposes_leader_before_next_leads(etcd_server: EtcdServer, settings: Settings) -> None:
    async with (
        Relay(etcd_server.port) as relay,
        candidate(Settings((relay.endpoint,), prefix=settings.prefix), "a") as a,
        AsyncExitStack() as stack,
    ):
        old = await a.leads()
        b = await stack.enter_async_context(candidate(settings, "b"))
        relay.hold()
        await a.deposed(seconds=4)
        assert b.leadership is None
        new = await b.leads(seconds=5)
        # What was on its way arrives now: it is fenced.
        relay.release()
        with pytest.raises(Fenced):
            await old.txn([], [Put(settings.prefix + "written", b"by the old leader")])
        assert new.create_revision > old.create_revision
        await new.txn([], [Put(settings.prefix + "written", b"by the new leader")])


async def test_suspended_leader_writes_nothing(etcd: Etcd, settings: Settings) -> None:
    """SIGSTOP, then SIGCONT after the lease expired, before the loop has noticed."""
    async with candidate(settings, "a") as a:
        leadership = await a.leads()
        key = settings.prefix + "written"
        assert (await leadership.txn([], [Put(key, b"1")])).succeeded
        await etcd.revoke_lease(leadership.lease.id)
        # As if the keeper still believed in it: only etcd's own fence is left.
        leadership.lease.lost.clear()
        with pytest.raises(Fenced, match="no longer leads"):
            await leadership.txn([], [Put(key, b"2")])
        found = await etcd.get(key)
        assert found is not None
        assert found.value == b"1"


async def test_failed_compare_is_not_fenced(etcd: Etcd, settings: Settings) -> None:
    async with candidate(settings, "a") as a:
        leadership = await a.leads()
        key = settings.prefix + "written"
        assert not (await leadership.txn([Compare.exists(key)], [Put(key, b"1")])).succeeded
        assert (await leadership.txn([Compare.absent(key)], [Put(key, b"1")])).succeeded
        full = [Compare.exists(key)] * (MAX_OPERATIONS - 1)
        assert (await leadership.txn(full, [Put(key + str(n), b"1") for n in range(MAX_OPERATIONS)])).succeeded


async def test_failed_leader_is_replaced_and_campaigns_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with candidate(settings, "b") as b, Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
        await b.leads()
        failed = asyncio.Event()

        async def fail(leadership: Leadership) -> None:
            failed.set()
            raise ZeroDivisionError

        failing = asyncio.create_task(Election(etcd, keeper, "a", ttl=2).run(fail))
        b.resign()
        await failed.wait()
        await b.leads()
        assert b.terms >= 2
        assert "ZeroDivisionError" in caplog.text
        failing.cancel()
        await asyncio.gather(failing, return_exceptions=True)


async def test_leader_survives_etcd_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        async with candidate(server.settings(), "a", ttl=5) as a:
            before = await a.leads()
            await asyncio.to_thread(server.restart)
            assert (await before.txn([], [Put("/written", b"1")])).succeeded
            await asyncio.sleep(0.5)
            assert a.leadership is before


async def test_candidate_shows_certificate_and_gateway_also_after_a_change(etcd: Etcd) -> None:
    descriptions = [(1_000_000, "10.0.0.1:2381"), (2_000_000, "10.0.0.1:2381"), (2_000_000, "10.0.0.2:2381")]
    # The next one comes once the one before was seen, however long that takes.
    seen: list[tuple[int, str]] = []

    def described() -> tuple[int, str]:
        return descriptions[min(len(seen), len(descriptions) - 1)]

    async def lead(_leadership: Leadership) -> None:
        await asyncio.Event().wait()

    start = (await etcd.head(etcd.keys.election_prefix)).revision + 1
    async with LeaseKeeper(etcd) as keeper, asyncio.timeout(10):
        expires, gateway = (lambda: described()[0]), (lambda: described()[1])
        election = Election(etcd, keeper, "a", ttl=2, expires=expires, gateway=gateway, recheck=0.1)
        task = asyncio.create_task(election.run(lead))
        async with aclosing(etcd.watch(etcd.keys.election_prefix, start_revision=start)) as batches:
            while descriptions[-1] not in seen:
                for event in (await anext(batches)).events:
                    if event.kv is not None:
                        record = decode(stored_pb2.Candidate, event.key, event.kv.value)
                        found = (record.certificate_expires_at.seconds, record.gateway)
                        # A lease that was lost brings another candidate, with the same description.
                        seen += [found] if found not in seen[-1:] else []
        assert seen == descriptions
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
