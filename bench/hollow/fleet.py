"""Fleet of hollow agents in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
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


def certificate_of(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a hollow node's certificate and of its key."""
    return folder / f"{name}.crt", folder / f"{name}.key"


def registrations(etcd: Etcd, names: Iterable[str], labels: Sequence[str]) -> list[Put]:
    """Return the operations that register hollow nodes."""
    return [
        Put(etcd.keys.node(name), encode(stored_pb2.Node(name=name, uid=uid_of(name), labels=sorted(labels))))
        for name in names
    ]


class Fleet:
    """Agents of the nodes ``names``, with state below ``folder``, preferably in memory (``/dev/shm``).

    They share a connection; with ``certificates``, a folder, each has one of its own with its node's certificate.
    An async context manager: all agents run within the block.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, settings: Settings, *, certificates: Path | None = None
    ) -> None:
        self._names = names
        self._folder = folder
        self._settings = settings
        self._certificates = certificates
        self._stack = AsyncExitStack()
        self.agents: list[HollowAgent] = []

    async def __aenter__(self) -> Self:
        disk, rest = ThreadPool(1, "disk"), MemoryTrimmer()
        shared = await self._connection(self._settings) if self._certificates is None else None
        keepers: list[LeaseKeeper] = []
        for number, name in enumerate(self._names):
            etcd = shared or await self._connection(self._settings_of(name))
            if shared is None:
                # One process connects no faster than it can.
                await etcd.get(etcd.keys.node(name))
            if number % AGENTS_PER_KEEPER == 0 or shared is None:
                keepers.append(await self._stack.enter_async_context(LeaseKeeper(etcd)))
            process = ProcessResources(etcd, keepers[-1], disk, rest)
            agent = HollowAgent(name, uid_of(name), self._folder / name, self._settings, process=process)
            agent.start()
            self.agents.append(agent)
            await asyncio.sleep(STAGGER)
        return self

    async def _connection(self, settings: Settings) -> Etcd:
        joins_lists = self._certificates is not None
        return await self._stack.enter_async_context(Etcd(settings, joins_lists=joins_lists))

    def _settings_of(self, name: str) -> Settings:
        if self._certificates is None:
            return self._settings
        certificate, key = certificate_of(self._certificates, name)
        return replace(self._settings, cert=certificate, key=key)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(agent.stop() for agent in self.agents))
        await self._stack.aclose()
