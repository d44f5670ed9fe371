"""Relay between client and server: a network that can fall silent or break."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

#: Turns of the event loop from an accepted connection to its task, with room for others that run meanwhile.
_ACCEPT_TURNS: Final = 50


class Relay:
    """TCP relay between a client and a server on this machine, as a network that can fall silent or break.

    An async context manager; clients connect to ``endpoint``.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = asyncio.Event()
        self._open.set()
        self._both = False
        self._refusing = False
        self._connections: set[asyncio.Task[None]] = set()
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        # The task of a connection accepted just now starts within these turns of the loop; asyncio closes no other.
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def hold_answers(self) -> None:
        """Hold the answers: the server hears the client, the client hears nothing."""
        self._both = False
        self._open.clear()

    def hold(self) -> None:
        """Hold both directions: connections stay open, and data waits."""
        self._both = True
        self._open.clear()

    def release(self) -> None:
        """Let everything through again, including waiting data."""
        self._open.set()

    def refuse(self) -> None:
        """Break all connections, and every new connection at once, until :meth:`accept`."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def cut(self) -> None:
        """Break all connections; new connections are accepted."""
        self._open.set()
        for connection in self._connections:
            connection.cancel()

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            if self._refusing:
                return
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            writers.append(server_writer)
            both = [
                asyncio.ensure_future(self._pass_on(reader, server_writer, answers=False)),
                asyncio.ensure_future(self._pass_on(server_reader, writer, answers=True)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in both:
                    direction.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # nobody listens, or cut: the client sees its connection end
        finally:
            for each_writer in writers:
                each_writer.transport.abort()
            with suppress(asyncio.CancelledError):  # cut once more while it ends
                await asyncio.gather(*(each_writer.wait_closed() for each_writer in writers), return_exceptions=True)
            self._connections.discard(task)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            if answers or self._both:
                await self._open.wait()
            target.write(data)
            await target.drain()
