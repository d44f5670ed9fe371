"""Agent in the test's own process, on the real etcd, with a fake router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from devopsellence.nodeagent.agent import Agent, AgentOptions, ProcessResources
from devopsellence.nodeagent.docker.client import DEFAULT_HOST
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.event_bus import EventBus
from devopsellence.nodeagent.health.probe import probe_call
from devopsellence.nodeagent.reconcile.machine import Machine as Works
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.memory import MemoryTrimmer
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.agent import AgentNode
from tests.support.fake_router import FakeRouter

R = TypeVar("R", bound=ContainerEngine)


@asynccontextmanager
async def agent_on(
    name: str, uid: str, folder: Path, settings: Settings, make: Callable[[EngineCallbacks], Works[R]]
) -> AsyncIterator[Agent[R]]:
    """Run an agent with the router of ``make``."""
    options = AgentOptions(name, uid, folder, DEFAULT_HOST, settings)
    stop = asyncio.Event()
    with StateFolder(folder) as state:
        async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
            disk = ThreadPool(1, "disk")
            events = EventBus()
            works = make(events.engine_callbacks())
            agent = Agent(options, state, ProcessResources(etcd, keeper, disk, MemoryTrimmer()), works, events)
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
    node: AgentNode, routes: FakeRouter, settings: Settings | None = None
) -> AsyncIterator[Agent[DockerEngine]]:
    """Run the agent of ``node`` on the real engine; ``settings``: of another etcd than the node's."""

    def make(callbacks: EngineCallbacks) -> Works[DockerEngine]:
        engine = DockerEngine(DEFAULT_HOST, node.uid, callbacks)
        routes.changed = lambda env: callbacks.changed(str(env))
        return Works(engine, partial(probe_call, engine), None, routes)

    folder = node.folder / "state"
    async with agent_on(node.name, node.uid, folder, settings or node.settings, make) as agent:
        yield agent
