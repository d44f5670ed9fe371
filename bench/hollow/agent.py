"""Hollow agent: the real agent on a machine in memory, with start, stop and kill."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.hollow.engine import HollowEngine, hollow
from bench.hollow.envoy import HollowEnvoy, HollowRouter
from bench.hollow.machine import HollowMachine
from devopsellence.nodeagent.agent import Agent, AgentOptions, ProcessResources
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.envoy.model import IngressOptions, PeerTls
from devopsellence.nodeagent.event_bus import EventBus
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.memory import MemoryTrimmer
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings


@dataclass(frozen=True)
class HollowIngress:
    """Envoy of a hollow node, which outlives the agents. ``peer_tls`` is never looked into."""

    envoy: HollowEnvoy
    options: IngressOptions
    peer_tls: PeerTls


class HollowAgent:
    """Agent of node ``name``, registered with ``uid``; ``machine`` and ``folder`` outlive stop and kill.

    Without an ``ingress`` it routes nothing. A ``certificate`` is kept renewed.

    With a ``process``, shares the resources of the process and can only be stopped. Otherwise has a separate connection
    to the etcd of ``settings``, and can also be killed, disconnected and started again.
    """

    def __init__(
        self,
        name: str,
        uid: str,
        folder: Path,
        settings: Settings,
        *,
        machine: HollowMachine | None = None,
        process: ProcessResources | None = None,
        ingress: HollowIngress | None = None,
        certificate: CertificateFiles | None = None,
    ) -> None:
        self.name = name
        self.uid = uid
        self.machine = machine or HollowMachine()
        #: Agent of the current or last run.
        self.agent: Agent[HollowEngine] | None = None
        self._options = AgentOptions(name, uid, folder, "hollow", settings, files=certificate)
        self._process = process
        self._ingress = ingress
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._etcd: Etcd | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the agent on the current state of machine and folder."""
        if self.running:
            raise RuntimeError(f"the agent of {self.name} runs already")
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"agent of {self.name}")

    async def stop(self) -> None:
        """Stop as with SIGTERM: running calls finish, the heartbeat is deleted. Raises the error of an earlier exit."""
        if self._task is not None:
            self._stop.set()
            await self._task

    async def kill(self) -> None:
        """Kill as with SIGKILL: no more requests, the heartbeat expires, running calls may or may not finish."""
        if self._process is not None:
            raise RuntimeError(f"the agent of {self.name} shares its connection and cannot be killed")
        if self._task is None:
            return
        if self._etcd is not None:
            # First, so that no final request is sent.
            await self._etcd.__aexit__(None, None, None)
        self._task.cancel()
        with suppress(asyncio.CancelledError, StoreError):
            await self._task

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            process = self._process or await self._own(stack)
            folder = stack.enter_context(await process.disk.run(partial(StateFolder, self._options.state_dir)))
            # Pending writes from before the kill finish before another agent uses the folder.
            stack.push_async_callback(process.disk.run, lambda: None)
            events = EventBus()
            # A fleet has a single disk for all, and nobody makes copies in it.
            path = self._options.state_dir / "containers.json"
            owned = ContainerLedger(path, process.disk, folder.files) if self._process is None else None
            machine = hollow(self.machine, events.engine_callbacks(), owned)
            if (ingress := self._ingress) is not None:
                parts = self.machine, ingress.envoy, folder, ingress.options, ingress.peer_tls
                machine = replace(machine, router=HollowRouter(self.name, *parts, process.disk, events))
            self.agent = Agent(self._options, folder, process, machine, events)
            await self.agent.run(self._stop)

    async def _own(self, stack: AsyncExitStack) -> ProcessResources:
        self._etcd = await stack.enter_async_context(Etcd(self._options.settings, joins_lists=True))
        keeper = await stack.enter_async_context(LeaseKeeper(self._etcd))
        return ProcessResources(self._etcd, keeper, ThreadPool(1, "disk"), MemoryTrimmer())
