"""Putting one question to a container: by HTTP, by a TCP connection, or by a command that is run in it.

The first two are asked on the event loop, from the node. A command is run by the engine; of its output the end is kept,
for the message. It is given its time, then killed; where that cannot be done (its process is not visible here) it is
not asked again before it has ended, so that no more than one runs in a container.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

from tenacity import AsyncRetrying, retry_if_result, wait_exponential

from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.errors import EngineError, EngineUnavailable, NotFound
from devopsellence.nodeagent.docker.frames import FrameParser, MalformedFrame
from devopsellence.nodeagent.docker.process import send_signal
from devopsellence.nodeagent.docker.streams import ExecState, HijackedConnection, create_exec, inspect_exec, start_exec
from devopsellence.nodeagent.plan.probe_spec import Probe

#: Asks once: empty if the answer passes, otherwise what is wrong. Raises EngineUnavailable if nothing is known.
ProbeCall: TypeAlias = Callable[[], Awaitable[str]]

_OUTPUT_BYTES: Final = 4096
_MESSAGE_LENGTH: Final = 200
_COMMAND_LENGTH: Final = 80


def probe_call(engine: DockerEngine, probe: Probe, container: str, address: str) -> ProbeCall:
    """How ``probe`` is put to a container at an address on its environment's network."""
    if probe.command:
        return _Command(engine, container, probe).ask
    if probe.path:
        return partial(probe_http, address, probe.port, probe.path, probe.timing.timeout)
    return partial(probe_tcp, address, probe.port, probe.timing.timeout)


async def probe_http(address: str, port: int, path: str, timeout: float) -> str:  # noqa: ASYNC109 - of the whole exchange
    """GET ``path``: 200 to 399 passes."""
    where = f"GET http://{address}:{port}{path}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, port, limit=4096)
            try:
                writer.write(_request(address, port, path))
                line = await reader.readline()
            finally:
                # The rest of the answer is of no interest.
                writer.transport.abort()
    except (OSError, ValueError) as error:
        return f"{where}: {_trouble(error, timeout)}"
    parts = line.split(maxsplit=2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/"):
        return f"{where}: what answers does not speak HTTP"
    code = 0
    with suppress(ValueError):
        code = int(parts[1])
    return "" if 200 <= code <= 399 else f"{where}: answered {code}"


async def probe_tcp(address: str, port: int, timeout: float) -> str:  # noqa: ASYNC109 - of the whole exchange
    """Connect: whoever accepts passes."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return f"tcp {address}:{port}: {_trouble(error, timeout)}"
    writer.transport.abort()
    return ""


class _Command:
    """A command in one container, run again and again, never twice at a time."""

    def __init__(self, engine: DockerEngine, container: str, probe: Probe) -> None:
        self._engine = engine
        self._container = container
        self._command = probe.command
        self._timeout = probe.timing.timeout
        shown = _printable(shlex.join(probe.command))
        self._what = shown if len(shown) <= _COMMAND_LENGTH else f"{shown[: _COMMAND_LENGTH - 1]}…"
        #: The one that did not end in time.
        self._late = ""

    async def ask(self) -> str:
        """Exit code 0 passes."""
        try:
            return await self._ask()
        except EngineUnavailable:
            raise
        except EngineError as error:
            return f"{self._what}: {error}"

    async def _ask(self) -> str:
        if await self._still_runs():
            return f"{self._what}: the one before has still not ended"
        execution = await self._engine.check(
            lambda docker: create_exec(docker, self._container, self._command, stdin=False, tty=False)
        )
        connection = await self._engine.check(lambda docker: start_exec(docker, execution, tty=False))
        try:
            async with asyncio.timeout(self._timeout):
                said = await _output(connection)
                code = (await self._ended(execution)).exit_code
        except TimeoutError:
            self._late = execution
            await self._engine.check(lambda docker: _kill(docker, execution, self._container))
            return f"{self._what}: not ended within {self._timeout:g} s"
        finally:
            connection.socket.close()
        return "" if code == 0 else f"{self._what}: exit code {code}{_last_line(said)}"

    async def _still_runs(self) -> bool:
        """The one that did not end in time has still not ended."""
        with suppress(NotFound):
            if self._late and (await self._inspect(self._late)).running:
                return True
        self._late = ""
        return False

    async def _inspect(self, execution: str) -> ExecState:
        return await self._engine.check(lambda docker: inspect_exec(docker, execution))

    async def _ended(self, execution: str) -> ExecState:
        """How it ended: its output ends a moment before the engine knows of its exit code."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda found: found.running), wait=wait_exponential(multiplier=0.005, max=0.2)
        )
        ended: ExecState = await retrying(self._inspect, execution)
        return ended


async def _output(connection: HijackedConnection) -> bytes:
    """The end of what it writes, once it has closed its output."""
    loop = asyncio.get_running_loop()
    frames, said, chunk = FrameParser(), b"", connection.ahead
    with suppress(MalformedFrame, ConnectionResetError):
        while True:
            for _, payload in frames.feed(chunk):
                said = (said + payload)[-_OUTPUT_BYTES:]
            chunk = await loop.sock_recv(connection.socket, _OUTPUT_BYTES)
            if not chunk:
                break
    return said


def _kill(docker: DockerClient, execution: str, container: str) -> None:
    """End a command and what it has started, as far as its process can be reached from here."""
    pid = inspect_exec(docker, execution).pid
    send_signal(pid, container, signal.SIGKILL)


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {_printable(last)[:_MESSAGE_LENGTH]}" if last else ""


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _trouble(error: OSError | ValueError, patience: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {patience:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(getattr(error, "strerror", None) or error)


def _request(address: str, port: int, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nUser-Agent: devopsellence-agent\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()
