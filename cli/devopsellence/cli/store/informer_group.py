"""Informers of one view: started, awaited and ended together."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from google.protobuf.message import Message

from devopsellence.store.errors import Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer

M = TypeVar("M", bound=Message)


class InformerGroup:
    """Informers whose changes wake one waiter; with ``connections``, lost and new connections do as well."""

    def __init__(self, etcd: Etcd, *, connections: bool = False) -> None:
        self._etcd = etcd
        self._connections = connections
        self._changed = asyncio.Event()
        self._tasks: dict[Informer[Any], asyncio.Task[None]] = {}
        self._added: list[Informer[Any]] = []

    def __len__(self) -> int:
        return len(self._added)

    def add(self, prefix: str, kind: type[M]) -> Informer[M]:
        """Return a new informer, which :meth:`start` and :meth:`synced` start."""
        on_connection = self._changed.set if self._connections else None
        informer = Informer(self._etcd, prefix, kind, lambda _key: self._changed.set(), on_connection=on_connection)
        self._added.append(informer)
        return informer

    def start(self) -> None:
        """Start the informers added so far."""
        for informer in self._added:
            if informer not in self._tasks:
                self._tasks[informer] = asyncio.create_task(informer.run())

    async def synced(self, seconds: float | None = None) -> None:
        """Start the informers added so far, and return once each has read all of its keys.

        Raises:
            Unavailable: they have not within ``seconds``; None: no limit.
        """
        self.start()
        try:
            async with asyncio.timeout(seconds):
                for informer in self._added:
                    await informer.synced()
        except TimeoutError as error:
            raise Unavailable(self.problem) from error

    @property
    def problem(self) -> str:
        """Return why not everything has been read."""
        return next((one.problem for one in self._added if one.problem), "not everything could be read in time")

    def wake(self) -> None:
        """Make :meth:`changed` return without a change."""
        self._changed.set()

    async def changed(self) -> None:
        """Return after the next change, without a limit; changes since the last return count, and are combined."""
        waiting = asyncio.ensure_future(self._changed.wait())
        try:
            # An informer ends only because of a bug, which must not look like keys without changes.
            done, _ = await asyncio.wait({waiting, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        for task in done - {waiting}:
            task.result()
        self._changed.clear()

    async def end(self) -> None:
        """End all informers."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
