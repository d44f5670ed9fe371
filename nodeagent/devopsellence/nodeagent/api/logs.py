"""Logs of a service's containers: existing lines, then new lines, including those of containers started later.

A log is read on a thread, because of its HTTP framing; everything else runs on the event loop. A restarted container
continues the same log, so reading continues after the last line read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import LogLine, LogsAnswer, LogsRequest
from devopsellence.nodeagent.api import targets
from devopsellence.nodeagent.api.backpressure import BoundedQueue
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.frames import LineJoiner, LogText
from devopsellence.nodeagent.docker.model import Container

#: Size limit of a message; a longer line is sent alone.
MESSAGE_BYTES: Final = 64 * 1024
#: Time for collecting lines, so that many short lines need few messages.
GATHER_SECONDS: Final = 0.01
#: Size of a line's service, container and time, in memory and on the wire.
_LINE_OVERHEAD: Final = 200
_SHORT_ID: Final = 12
#: Placeholder for the start of a run before the first read.
_UNREAD: Final = "-"

LogTime = tuple[int, int]


@dataclass(slots=True)
class _Reader:
    """Reader of a container's log. ``run``: start time of the run being read. ``last``: time of the newest line.
    ``skip``: number of lines to leave out at the beginning."""

    service: str
    container: str
    run: str = _UNREAD
    last: LogTime = (0, 0)
    skip: int = 0
    stream: streams.LogStream | None = None


@dataclass(slots=True)
class LogTail:
    """Logs of a single call. :meth:`run` sends lines until the end of the logs or until cancelled."""

    engine: DockerEngine
    environment: str
    request: LogsRequest
    answer: Callable[[LogsAnswer], Awaitable[None]]
    #: Containers (ids) to read; None: all of the requested services.
    only: frozenset[str] | None = None
    _readers: dict[str, _Reader] = field(default_factory=dict)
    #: Set when lines are available or containers have changed.
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: bool = True
    _first: bool = True
    _interrupted: bool = False

    async def run(self) -> None:
        """Send lines in batches; with follow, new containers of the requested services are included.

        Raises:
            EngineError: the engine does not return a log (with follow only at the start).
        """
        queue: BoundedQueue[LogLine] = BoundedQueue(self._ready)
        try:
            with self.engine.cache.watched(self._on_change):
                await self._follow(queue)
        finally:
            queue.close()
            for reader in self._readers.values():
                if reader.stream is not None:
                    reader.stream.close()

    async def _follow(self, queue: BoundedQueue[LogLine]) -> None:
        while True:
            if self._changed:
                self._changed = False
                await self._open(queue)
            if not self.request.follow and not self._reading:
                await self._send(queue)
                if self._interrupted:
                    raise errors.EngineUnavailable("the connection to the Docker Engine broke while reading a log")
                return
            await self._ready.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._ready.clear()
            await self._send(queue)

    async def _send(self, queue: BoundedQueue[LogLine]) -> None:
        while lines := queue.take(MESSAGE_BYTES):
            await self.answer(LogsAnswer(lines=lines))

    @property
    def _reading(self) -> bool:
        return any(reader.stream is not None for reader in self._readers.values())

    def _on_change(self) -> None:
        # Without follow only the containers present at the start count.
        if self.request.follow:
            self._changed = True
            self._ready.set()

    async def _open(self, queue: BoundedQueue[LogLine]) -> None:
        """Start reading each log with news, unless already being read."""
        containers, _ = self.engine.cache.of(self.environment, "")
        if self.only is not None:
            containers = tuple(container for container in containers if container.id in self.only)
        chosen = targets.with_output(containers, self.request.services, self.request.task)
        for container_id in set(self._readers) - {container.id for container in containers}:
            if self._readers[container_id].stream is None:
                del self._readers[container_id]
        first, self._first = self._first, False
        for container in chosen:
            reader = self._readers.setdefault(container.id, _Reader(container.service, container.id[:_SHORT_ID]))
            if reader.stream is not None or reader.run == container.started_at:
                continue
            if not reader.run and not container.up:
                # Already read to the end; only the start time is news.
                reader.run = container.started_at
                continue
            await self._begin(queue, reader, container, first=first)

    async def _begin(self, queue: BoundedQueue[LogLine], reader: _Reader, container: Container, *, first: bool) -> None:
        tail = self.request.lines if first and self.request.lines >= 0 else None
        since = max((self.request.since.seconds, self.request.since.nanos), reader.last)
        follow = self.request.follow and container.up
        try:
            if tail:
                lines = tail
                tail, reader.skip = await self.engine.ask(
                    lambda docker: streams.find_tail(docker, container.id, lines, since), about=container.id
                )
            reader.stream = await self.engine.ask(
                lambda docker: streams.open_log(docker, container.id, follow=follow, tail=tail, since=since),
                about=container.id,
            )
        except (errors.NotFound, errors.Conflict):
            # The container is being removed, with its log.
            return
        except errors.ContainerHung as error:
            # The others are shown; this one is read once the engine answers about it, which changes the cache.
            if first:
                text = str(error).encode()
                line = LogLine(service=reader.service, container=reader.container, stderr=True, line=text)
                line.at.GetCurrentTime()
                await self.answer(LogsAnswer(lines=[line]))
            return
        except errors.EngineUnavailable:
            # After a reconnect all containers in the cache are refreshed, which leads back here.
            if first:
                raise
            return
        reader.run = container.started_at
        arguments = (reader, reader.stream, queue, asyncio.get_running_loop())
        threading.Thread(target=self._read, args=arguments, name="docker-log", daemon=True).start()

    def _read(
        self, reader: _Reader, stream: streams.LogStream, queue: BoundedQueue[LogLine], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Move lines from a log to the queue, on a thread, until the log ends or the queue is closed."""
        interrupted = False
        after = reader.last
        joiner = LineJoiner()

        def put(lines: Iterable[LogText]) -> bool:
            return all(_put(reader, queue, line) for line in lines if not after >= line.at > (0, 0))

        try:
            if all(put(joiner.feed(stderr, payload)) for stderr, payload in stream):
                put(joiner.finish())
        except errors.EngineUnavailable:
            interrupted = True
            # Later lines are read again as a whole.
            put(line for line in joiner.finish() if line.at <= reader.last)
        finally:
            stream.release()
            # RuntimeError: the event loop is closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, reader, interrupted)

    def _ended(self, reader: _Reader, interrupted: bool) -> None:
        reader.stream = None
        reader.skip = 0
        if interrupted:
            # Reading continues after a reconnect, reported by the cache.
            reader.run = _UNREAD
            self._interrupted = True
        else:
            self._on_change()
        self._ready.set()


def _put(reader: _Reader, queue: BoundedQueue[LogLine], line: LogText) -> bool:
    """Wait for space and add a line; False if the queue is closed."""
    reader.last = max(reader.last, line.at)
    if reader.skip:
        reader.skip -= 1
        return True
    seconds, nanos = line.at
    message = LogLine(
        service=reader.service,
        container=reader.container,
        stderr=line.stderr,
        at=Timestamp(seconds=seconds, nanos=nanos),
        line=line.text,
    )
    return queue.put(message, len(line.text) + _LINE_OVERHEAD)
