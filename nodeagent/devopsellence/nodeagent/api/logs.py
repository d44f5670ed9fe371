"""The output of services' containers: what the engine has kept, then what comes, also from containers yet to come.

A log is read by a thread, because the engine frames it in HTTP; everything else is on the loop. A container that ends
and is started again goes on with the same log, so that reading goes on after the last line that was seen.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import LogLine, LogsAnswer, LogsRequest
from devopsellence.nodeagent.api import targets
from devopsellence.nodeagent.api.backpressure import BoundedQueue
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.frames import log_entry
from devopsellence.nodeagent.docker.model import Container

#: What one message holds at most; one longer line goes alone.
MESSAGE_BYTES: Final = 64 * 1024
#: Lines are gathered for so long, so that many small ones cost little.
GATHER_SECONDS: Final = 0.01
#: A line's names and time, in memory and on the wire.
_LINE_OVERHEAD: Final = 200
_SHORT_ID: Final = 12
#: Instead of the start of a run, while none has been read.
_UNREAD: Final = "-"

LogTime = tuple[int, int]


@dataclass(slots=True)
class _Reader:
    """One container's log. ``run``: which of its runs is being read, by its start; ``last``: the newest line's time."""

    service: str
    container: str
    run: str = _UNREAD
    last: LogTime = (0, 0)
    stream: streams.LogStream | None = None


@dataclass(slots=True)
class LogTail:
    """One call's logs. :meth:`run` sends them until they end, or until it is cancelled."""

    engine: DockerEngine
    env: str
    request: LogsRequest
    answer: Callable[[LogsAnswer], Awaitable[None]]
    _readers: dict[str, _Reader] = field(default_factory=dict)
    #: Something is to be taken, or something has changed.
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: bool = True
    _first: bool = True
    _broken: bool = False

    async def run(self) -> None:
        """Send lines in batches; containers of the chosen services that appear meanwhile are followed as well.

        Raises:
            EngineError: the engine does not give a log (a follower only hears of that at its beginning).
        """
        funnel: BoundedQueue[LogLine] = BoundedQueue(self._ready)
        try:
            with self.engine.cache.watched(self._look_again):
                await self._follow(funnel)
        finally:
            funnel.close()
            for reader in self._readers.values():
                if reader.stream is not None:
                    reader.stream.close()

    async def _follow(self, funnel: BoundedQueue[LogLine]) -> None:
        while True:
            if self._changed:
                self._changed = False
                await self._open(funnel)
            if not self.request.follow and not self._reading:
                await self._send(funnel)
                if self._broken:
                    raise errors.EngineUnavailable("the Docker Engine has broken off a log")
                return
            await self._ready.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._ready.clear()
            await self._send(funnel)

    async def _send(self, funnel: BoundedQueue[LogLine]) -> None:
        while lines := funnel.take(MESSAGE_BYTES):
            await self.answer(LogsAnswer(lines=lines))

    @property
    def _reading(self) -> bool:
        return any(reader.stream is not None for reader in self._readers.values())

    def _look_again(self) -> None:
        # Without following, what was there at the beginning is all.
        if self.request.follow:
            self._changed = True
            self._ready.set()

    async def _open(self, funnel: BoundedQueue[LogLine]) -> None:
        """Begin to read each log that is not being read and has something new."""
        containers, _ = self.engine.cache.of(self.env, "")
        chosen = targets.with_output(containers, self.request.services)
        for gone in set(self._readers) - {each.id for each in containers}:
            if self._readers[gone].stream is None:
                del self._readers[gone]
        first, self._first = self._first, False
        for container in chosen:
            reader = self._readers.setdefault(container.id, _Reader(container.service, container.id[:_SHORT_ID]))
            if reader.stream is not None or reader.run == container.started_at:
                continue
            if not reader.run and not container.up:
                # Read to its end already; when it began became known only now.
                reader.run = container.started_at
                continue
            await self._begin(funnel, reader, container, first=first)

    async def _begin(
        self, funnel: BoundedQueue[LogLine], reader: _Reader, container: Container, *, first: bool
    ) -> None:
        tail = self.request.lines if first and self.request.lines >= 0 else None
        since = max((self.request.since.seconds, self.request.since.nanos), reader.last)
        follow = self.request.follow and container.up
        try:
            reader.stream = await self.engine.ask(
                lambda docker: streams.open_log(docker, container.id, follow=follow, tail=tail, since=since)
            )
        except (errors.NotFound, errors.Conflict):
            # It is going, and its log with it.
            return
        except errors.EngineUnavailable:
            # Once the engine is back everything in the view is learnt anew.
            if first:
                raise
            return
        reader.run = container.started_at
        arguments = (reader, reader.stream, funnel, asyncio.get_running_loop())
        threading.Thread(target=self._read, args=arguments, name="docker-log", daemon=True).start()

    def _read(
        self, reader: _Reader, stream: streams.LogStream, funnel: BoundedQueue[LogLine], loop: asyncio.AbstractEventLoop
    ) -> None:
        """On a thread: move lines from a log to the funnel until one of them ends."""
        broken = False
        after = reader.last
        try:
            for stderr, payload in stream:
                seconds, nanos, text = log_entry(payload)
                at = (seconds, nanos)
                if after >= at > (0, 0):
                    continue
                reader.last = max(reader.last, at)
                line = LogLine(
                    service=reader.service,
                    container=reader.container,
                    stderr=stderr,
                    at=Timestamp(seconds=seconds, nanos=nanos),
                    line=text,
                )
                if not funnel.put(line, len(text) + _LINE_OVERHEAD):
                    break
        except errors.EngineUnavailable:
            broken = True
        finally:
            stream.release()
            # RuntimeError: the loop has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, reader, broken)

    def _ended(self, reader: _Reader, broken: bool) -> None:
        reader.stream = None
        if broken:
            # The same run is read on once the engine is back, which the view tells.
            reader.run = _UNREAD
            self._broken = True
        else:
            self._look_again()
        self._ready.set()
