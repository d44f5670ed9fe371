"""Any number of controllers: one leads, whoever is left goes on, and who cannot read stands aside."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.controller.controller import Controller, serve
from devopsellence.store.election import Election
from devopsellence.store.errors import WatchLost
from devopsellence.store.etcd import Etcd, WatchBatch
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.integration.controller.audit import audit, next_revision, read_history
from tests.integration.controller.fenced import Bustle, Controllers, candidates
from tests.support.controller import EnvironmentDriver
from tests.support.etcd import EtcdServer
from tests.support.relay import Relay

pytestmark = pytest.mark.etcd


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to stop"])
async def test_last_of_five_controllers_continues(
    etcd: Etcd, settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    """Each leader goes while releases are written and statuses come in."""
    since = await next_revision(etcd)
    with Controllers(etcd, settings, tmp_path, 5) as standing:
        await standing.all_stand()
        bustle = Bustle(etcd, random.Random(5))
        await bustle.begin()
        busy = asyncio.create_task(bustle.go_on())
        for _ in range(4):
            before = await standing.leader()
            await bustle.written()
            code = await standing.end(before, number)
            assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            await standing.succeeded(before)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        await bustle.finish()
    findings = audit(await read_history(etcd, since), etcd.keys)
    assert findings.defects == []
    assert len(findings.leaders) == 5


class Blindable(Etcd):
    """Answers everything, but for watches that can be made to break, those of the election aside."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._blind = asyncio.Event()

    def blind(self) -> None:
        self._blind.set()

    def see(self) -> None:
        self._blind.clear()

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        async with aclosing(super().watch(prefix, start_revision=start_revision)) as batches:
            if prefix.startswith(self.keys.election_prefix):
                async for batch in batches:
                    yield batch
                return
            blind = asyncio.ensure_future(self._blind.wait())
            try:
                while True:
                    following = asyncio.ensure_future(anext(batches))
                    try:
                        await asyncio.wait({blind, following}, return_when=asyncio.FIRST_COMPLETED)
                        if blind.done():
                            raise WatchLost("made blind by the test")
                        yield following.result()
                    finally:
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
            finally:
                blind.cancel()


@asynccontextmanager
async def controller(settings: Settings, identity: str, patience: float = 0.5) -> AsyncIterator[Blindable]:
    """Run a controller in this process that gives up its term after ``patience`` seconds of disconnected caches."""
    async with Blindable(settings) as etcd, LeaseKeeper(etcd) as keeper:
        stop = asyncio.Event()
        election = Election(etcd, keeper, identity, ttl=1)
        serving = asyncio.create_task(serve(Controller(etcd, patience=patience), election, stop))
        try:
            yield etcd
        finally:
            stop.set()
            await serving


async def test_leader_that_cannot_see_what_changes_makes_way(settings: Settings, etcd: Etcd) -> None:
    environment = EnvironmentDriver(etcd)
    async with controller(settings, "first") as first:
        await environment.leader("first")
        first.blind()
        async with controller(settings, "second") as second:
            await environment.leader("second")
            await environment.add_node("n1", "web")
            await environment.release(1, web="web")
            await environment.attach("n1", latest=1)
            await environment.assignment("n1", lambda one: one.release == 1)
            assert len((await etcd.list(etcd.keys.election_prefix)).items) == 1, "the blind one is a candidate"
            first.see()
            second.blind()
            await environment.leader("first")
            await environment.release(2, web="web")
            await environment.attach("n1", latest=2)
            await environment.assignment("n1", lambda one: one.release == 2)


async def test_blink_deposes_no_node(settings: Settings, etcd: Etcd) -> None:
    environment = EnvironmentDriver(etcd)
    async with controller(settings, "first", 60) as first:
        await environment.leader("first")
        leader = (await etcd.list(etcd.keys.election_prefix)).items[0]
        async with controller(settings, "second"):
            await candidates(etcd, lambda line: line == ["first", "second"])
            first.blind()
            await asyncio.sleep(0)
            first.see()
            await environment.add_node("n1", "web")
            await environment.release(1, web="web")
            await environment.attach("n1", latest=1)
            await environment.assignment("n1", lambda one: one.release == 1)
            assert leader in (await etcd.list(etcd.keys.election_prefix)).items


async def test_disconnected_controller_steps_aside_and_returns(
    etcd_server: EtcdServer, settings: Settings, etcd: Etcd
) -> None:
    environment = EnvironmentDriver(etcd)
    async with Relay(etcd_server.port) as relay:
        cut_off = Settings((relay.endpoint,), prefix=settings.prefix)
        async with controller(cut_off, "first"):
            await environment.leader("first")
            async with controller(settings, "second"):
                relay.refuse()
                await environment.leader("second")
                relay.accept()
                await candidates(etcd, lambda line: len(line) == 2)
            await environment.leader("first")
