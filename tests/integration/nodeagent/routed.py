"""An agent in the test's own process, on the real engine and the real etcd, with a router that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from devopsellence.nodeagent.agent import Agent, Options, Process
from devopsellence.nodeagent.asking import question
from devopsellence.nodeagent.docker import DEFAULT_HOST
from devopsellence.nodeagent.engine import Callbacks, Engine
from devopsellence.nodeagent.pool import Pool
from devopsellence.nodeagent.rest import Rest
from devopsellence.nodeagent.runtime import Machine as Works
from devopsellence.nodeagent.state import StateFolder
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.integration.nodeagent.harness import Machine
from tests.support.routes import FakeRoutes


@asynccontextmanager
async def agent_of(
    machine: Machine, routes: FakeRoutes, settings: Settings | None = None
) -> AsyncIterator[Agent[Engine]]:
    """The agent of ``machine``, from start to end; ``settings``: of another etcd than the machine's."""

    def make(callbacks: Callbacks) -> Works[Engine]:
        engine = Engine(DEFAULT_HOST, machine.uid, callbacks)
        routes.changed = lambda env: callbacks.changed(str(env))
        return Works(engine, partial(question, engine), None, routes)

    options = Options(machine.node, machine.uid, machine.folder / "state", DEFAULT_HOST, settings or machine.settings)
    stop = asyncio.Event()
    with StateFolder(options.state_dir) as folder:
        async with Etcd(options.settings) as etcd, LeaseKeeper(etcd) as keeper:
            agent = Agent(options, folder, Process(etcd, keeper, Pool(1, "disk"), Rest()), make)
            running = asyncio.create_task(agent.run(stop))
            try:
                yield agent
            finally:
                stop.set()
                await running
