"""Heartbeats against a real etcd: written again after any loss, and by one of two agents with one uid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.nodeagent.status import heartbeat
from devopsellence.nodeagent.status.heartbeat import HeartbeatWriter
from devopsellence.nodeagent.status.heartbeat_owner import AgentProcess
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd, KeyValue
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


class RunningHeartbeat:
    """Heartbeat of node n1 in a task of its own, with its own connection."""

    def __init__(self, etcd: Etcd, keeper: LeaseKeeper, process: AgentProcess, uid: str) -> None:
        beat = Heartbeat(node="n1", uid=uid, instance=process.instance, hostname=f"host-{process.instance}")
        #: Answers to whether this agent reports, in order.
        self.reports: list[bool] = []
        self.writer = HeartbeatWriter(etcd, etcd.keys, keeper, beat, process, self.reports.append)
        self.task = asyncio.create_task(self.writer.run())

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def end(self) -> None:
        await self.kill()
        await self.writer.close()


@asynccontextmanager
async def agent(
    settings: Settings, instance: str, *, uid: str = "u1", former: frozenset[str] = frozenset()
) -> AsyncIterator[RunningHeartbeat]:
    async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
        running = RunningHeartbeat(etcd, keeper, AgentProcess(instance, former), uid)
        try:
            yield running
        finally:
            await running.kill()


async def _shown(etcd: Etcd, holds: Callable[[Heartbeat], object]) -> KeyValue:
    """Return the key once it holds a heartbeat for which ``holds``."""

    async def look() -> KeyValue | None:
        stored = await etcd.get(etcd.keys.heartbeat("n1"))
        return stored if stored is not None and holds(_beat(stored)) else None

    stored = await eventually("the heartbeat", look)
    assert stored is not None
    return stored


def _beat(stored: KeyValue) -> Heartbeat:
    try:
        return decode(Heartbeat, stored.key, stored.value)
    except Exception:  # noqa: BLE001 - a test writes garbage
        return Heartbeat()


def _by(instance: str, *others: str) -> Callable[[Heartbeat], bool]:
    return lambda beat: (beat.instance, [other.instance for other in beat.others]) == (instance, list(others))


async def _reports(one: RunningHeartbeat, reports: list[bool]) -> None:
    """Return once an agent was told of these changes: the key is in etcd before its writer has the answer."""

    async def told() -> bool:
        return one.reports == reports

    await eventually(f"reports {reports}", told)


async def test_lost_heartbeat_is_written_again(etcd: Etcd, settings: Settings) -> None:
    key = etcd.keys.heartbeat("n1")
    async with agent(settings, "a") as a:
        first = await _shown(etcd, _by("a"))
        await etcd.delete(key)
        second = await _shown(etcd, _by("a"))
        assert second.create_revision > first.create_revision
        await etcd.revoke_lease(second.lease)
        third = await _shown(etcd, _by("a"))
        assert third.lease not in (0, second.lease)
        await etcd.put(key, b"garbage")
        await _shown(etcd, _by("a"))
        # Without a lease it would outlive the agent.
        await etcd.put(key, third.value)

        async def bound() -> bool:
            stored = await etcd.get(key)
            return stored is not None and stored.lease == third.lease

        await eventually("its lease", bound)
        await _reports(a, [True])
        await a.end()
        assert await etcd.get(key) is None


async def test_heartbeat_lost_with_a_restored_etcd_is_written_again(tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "etcd") as server:
        async with Etcd(server.settings()) as etcd, agent(server.settings(), "a"):
            before = await _shown(etcd, _by("a"))
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.wipe)
            await asyncio.to_thread(server.start)
            after = await _shown(etcd, _by("a"))
            assert after.lease != before.lease


async def test_second_agent_is_named_and_takes_over_at_the_end_of_the_first(etcd: Etcd, settings: Settings) -> None:
    async with agent(settings, "a") as a:
        await _shown(etcd, _by("a"))
        async with agent(settings, "b") as b:
            both = await _shown(etcd, _by("a", "b"))
            assert _beat(both).others[0].hostname == "host-b"
            a.writer.update(problem="Docker does not answer", without_engine=True, docker_version="27")
            changed = await _shown(etcd, lambda beat: _by("a", "b")(beat) and beat.problem)
            assert changed.lease == both.lease
            # One write each, and none in turns.
            assert changed.version <= 3
            await a.end()
            await _shown(etcd, _by("b"))
            assert (a.reports, b.reports) == ([True], [False, True])


async def test_end_of_second_agent_leaves_the_heartbeat_of_the_first(etcd: Etcd, settings: Settings) -> None:
    async with agent(settings, "a") as a:
        first = await _shown(etcd, _by("a"))
        async with agent(settings, "b") as b:
            await _shown(etcd, _by("a", "b"))
            await b.end()
        left = await _shown(etcd, _by("a"))
        assert (left.create_revision, left.lease) == (first.create_revision, first.lease)
        assert (a.reports, b.reports) == ([True], [False])


async def test_killed_second_agent_is_forgotten_and_a_living_one_is_not(
    etcd: Etcd, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "CONFIRM_SECONDS", 0.1)
    async with agent(settings, "a"):
        await _shown(etcd, _by("a"))
        async with agent(settings, "b"), agent(settings, "c") as c:
            await _shown(etcd, lambda beat: len(beat.others) == 2)
            await c.kill()
            await _shown(etcd, _by("a", "b"))
        await _shown(etcd, _by("a"))


async def test_restarted_agent_takes_the_key_of_its_killed_predecessor(etcd: Etcd, settings: Settings) -> None:
    async with agent(settings, "a") as killed:
        first = await _shown(etcd, _by("a"))
        await killed.kill()
        async with agent(settings, "b", former=frozenset({"a"})) as b:
            second = await _shown(etcd, _by("b"))
            assert second.create_revision == first.create_revision
            await _reports(b, [True])


async def test_clone_with_the_state_folder_of_a_running_agent_is_noticed_by_it(etcd: Etcd, settings: Settings) -> None:
    async with agent(settings, "a") as original:
        await _shown(etcd, _by("a"))
        async with agent(settings, "b", former=frozenset({"a"})) as clone:
            stored = await _shown(etcd, _by("b", "a"))
            assert stored.version <= 3
            await eventually("its answer", lambda: asyncio.sleep(0, clone.reports))
            assert (original.reports, clone.reports) == ([True, False], [True])


async def test_deposed_owner_whose_lease_has_ended_waits_quietly(
    etcd: Etcd, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a pause of the machine, in which another agent has taken the key."""
    reads = 0
    get = Etcd.get

    async def counted(self: Etcd, key: str) -> KeyValue | None:
        nonlocal reads
        reads += self is not etcd
        return await get(self, key)

    monkeypatch.setattr(Etcd, "get", counted)
    async with agent(settings, "a") as a:
        first = await _shown(etcd, _by("a"))
        beat = Heartbeat(node="n1", uid="u1", instance="b", hostname="host-b")
        lease = await etcd.grant_lease(60)
        await etcd.put(first.key, encode(beat), lease=lease)
        await etcd.revoke_lease(first.lease)
        await _shown(etcd, _by("b", "a"))
        held = a.writer._lease
        assert held is not None
        await held.lost.wait()
        await eventually("its answer", lambda: asyncio.sleep(0, a.reports[1:]))
        before = reads
        for _ in range(50):
            await etcd.get(first.key)
        # At most the echo of its own write.
        assert reads - before <= 1
        await etcd.revoke_lease(lease)
        await _shown(etcd, _by("a"))
        await _reports(a, [True, False, True])


async def test_other_machine_stands_by_until_it_is_registered(etcd: Etcd, settings: Settings) -> None:
    await etcd.put(etcd.keys.node("n1"), encode(Node(name="n1", uid="u1")))
    async with agent(settings, "a"):
        await _shown(etcd, _by("a"))
        async with agent(settings, "b", uid="u2") as other:
            await _reports(other, [True])
            await _shown(etcd, _by("a"))
            await etcd.put(etcd.keys.node("n1"), encode(Node(name="n1", uid="u2")))
            await _shown(etcd, lambda beat: (beat.uid, beat.instance) == ("u2", "b"))
