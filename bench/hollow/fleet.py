"""Fleet of hollow agents in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.hollow.agent import HollowAgent
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.agent import ProcessResources
from devopsellence.nodeagent.util.memory import MemoryTrimmer
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

#: Leases per keepalive stream; a keeper iterates over all its leases whenever a keepalive is due.
AGENTS_PER_KEEPER: Final = 50
#: Pause between the starts of two agents in seconds, to spread the keepalives.
STAGGER: Final = 0.003


def uid_of(name: str) -> str:
    """Return the uid of a hollow node."""
    return f"uid-{name}"


def registrations(etcd: Etcd, names: Iterable[str], labels: Sequence[str]) -> list[Put]:
    """Return the operations that register hollow nodes."""
    return [
        Put(etcd.keys.node(name), encode(stored_pb2.Node(name=name, uid=uid_of(name), labels=sorted(labels))))
        for name in names
    ]


class Fleet:
    """Agents of the nodes ``names``, with state below ``folder``, preferably in memory (``/dev/shm``).

    An async context manager: all agents run within the block.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Settings) -> None:
        self._names = names
        self._folder = folder
        self._settings = settings
        self._stack = AsyncExitStack()
        self.agents: list[HollowAgent] = []

    async def __aenter__(self) -> Self:
        etcd = await self._stack.enter_async_context(Etcd(self._settings))
        disk, rest = ThreadPool(1, "disk"), MemoryTrimmer()
        keepers: list[LeaseKeeper] = []
        for number, name in enumerate(self._names):
            if number % AGENTS_PER_KEEPER == 0:
                keepers.append(await self._stack.enter_async_context(LeaseKeeper(etcd)))
            process = ProcessResources(etcd, keepers[-1], disk, rest)
            agent = HollowAgent(name, uid_of(name), self._folder / name, self._settings, process=process)
            agent.start()
            self.agents.append(agent)
            await asyncio.sleep(STAGGER)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(agent.stop() for agent in self.agents))
        await self._stack.aclose()
