"""An agent in the test's own process, on the real etcd, with a router that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from devopsellence.nodeagent.agent import Agent, Options, Process
from devopsellence.nodeagent.docker.client import DEFAULT_HOST
from devopsellence.nodeagent.docker.engine import Callbacks, Engine
from devopsellence.nodeagent.docker.interface import Machine as Works
from devopsellence.nodeagent.docker.interface import Runtime
from devopsellence.nodeagent.health.probe import question
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.memory import Rest
from devopsellence.nodeagent.util.threads import Pool
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.integration.nodeagent.harness import Machine
from tests.support.routes import FakeRoutes

R = TypeVar("R", bound=Runtime)


@asynccontextmanager
async def agent_on(
    node: str, uid: str, folder: Path, settings: Settings, make: Callable[[Callbacks], Works[R]]
) -> AsyncIterator[Agent[R]]:
    """An agent on what ``make`` makes, from start to end."""
    options = Options(node, uid, folder, DEFAULT_HOST, settings)
    stop = asyncio.Event()
    with StateFolder(folder) as state:
        async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
            disk = Pool(1, "disk")
            agent = Agent(options, state, Process(etcd, keeper, disk, Rest()), make)
            running = asyncio.create_task(agent.run(stop))
            try:
                yield agent
            finally:
                stop.set()
                await running
                # A process that ends takes its threads with it.
                await disk.run(lambda: None)


@asynccontextmanager
async def agent_of(
    machine: Machine, routes: FakeRoutes, settings: Settings | None = None
) -> AsyncIterator[Agent[Engine]]:
    """The agent of ``machine``, on the real engine; ``settings``: of another etcd than the machine's."""

    def make(callbacks: Callbacks) -> Works[Engine]:
        engine = Engine(DEFAULT_HOST, machine.uid, callbacks)
        routes.changed = lambda env: callbacks.changed(str(env))
        return Works(engine, partial(question, engine), None, routes)

    folder = machine.folder / "state"
    async with agent_on(machine.node, machine.uid, folder, settings or machine.settings, make) as agent:
        yield agent
