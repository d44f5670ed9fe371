"""Probe calls: HTTP, TCP, and exec in a container.

HTTP and TCP run on the event loop, from the node. An exec probe is run by the engine; the end of its output becomes the
message. A command still running at the timeout is killed. If the process is not visible here and cannot be killed, the
next run waits for its exit, so at most a single probe command runs in a container.

Processes that a command leaves behind are killed, and named: repeated every second, they would fill the machine. They
are known by a variable, and visible only to an agent on the engine's machine. The exit code of a command counts even
while such a process holds its output open.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from tenacity import AsyncRetrying, retry_if_result, wait_exponential

from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.errors import ContainerHung, EngineError, EngineUnavailable, NotFound
from devopsellence.nodeagent.docker.frames import FrameParser, MalformedFrame
from devopsellence.nodeagent.docker.process import end_marked, send_signal, still_there
from devopsellence.nodeagent.docker.streams import ExecState, HijackedConnection, create_exec, inspect_exec, start_exec
from devopsellence.nodeagent.plan.probe_spec import Probe


@dataclass(frozen=True, slots=True)
class ProbePassed:
    """Success of a probe with a ``note`` for people."""

    note: str


#: Runs a probe once: "" or a note on success, else the problem. Raises EngineUnavailable or ContainerHung if the result
#: is unknown.
ProbeCall: TypeAlias = Callable[[], Awaitable[str | ProbePassed]]

#: Variable that marks the processes of a probe.
VARIABLE: Final = "DEVOPSELLENCE_PROBE"
#: Processes left behind and killed that the container's first process may leave unreaped before the probe fails.
UNREAPED_LIMIT: Final = 50

_OUTPUT_BYTES: Final = 4096
_MESSAGE_LENGTH: Final = 200
_COMMAND_LENGTH: Final = 80


def probe_call(engine: DockerEngine, probe: Probe, container: str, address: str) -> ProbeCall:
    """Return the call of ``probe`` for a container at an address on its environment's network."""
    if probe.command:
        return _ExecProbe(engine, container, probe).run
    if probe.path:
        return partial(probe_http, address, probe.port, probe.path, probe.timing.timeout)
    return partial(probe_tcp, address, probe.port, probe.timing.timeout)


async def probe_http(address: str, port: int, path: str, timeout: float) -> str:  # noqa: ASYNC109 - limit of the whole exchange
    """Send GET ``path``: a status of 200 to 399 is a success."""
    request = f"GET http://{address}:{port}{path}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, port, limit=4096)
            try:
                writer.write(_request(address, port, path))
                line = await reader.readline()
            finally:
                # The rest of the response does not matter.
                writer.transport.abort()
    except (OSError, ValueError) as error:
        return f"{request}: {_problem(error, timeout)}"
    parts = line.split(maxsplit=2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/"):
        return f"{request}: the response is not HTTP"
    code = 0
    with suppress(ValueError):
        code = int(parts[1])
    return "" if 200 <= code <= 399 else f"{request}: answered {code}"


async def probe_tcp(address: str, port: int, timeout: float) -> str:  # noqa: ASYNC109 - limit of the whole exchange
    """Connect: an accepted connection is a success."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return f"tcp {address}:{port}: {_problem(error, timeout)}"
    writer.transport.abort()
    return ""


class _ExecProbe:
    """Exec probe of a container; never runs twice at the same time."""

    def __init__(self, engine: DockerEngine, container: str, probe: Probe) -> None:
        self._engine = engine
        self._container = container
        self._command = probe.command
        self._timeout = probe.timing.timeout
        shown = _printable(shlex.join(probe.command))
        self._name = shown if len(shown) <= _COMMAND_LENGTH else f"{shown[: _COMMAND_LENGTH - 1]}…"
        #: Exec id of a run that timed out and could not be killed.
        self._timed_out = ""
        #: Marks the processes of this probe.
        self._mark = secrets.token_hex(8)
        #: Pid of the container's first process; None: not asked yet.
        self._first: int | None = None
        #: Processes of the container that are not of this probe, and killed ones that are still there.
        self._others: set[int] = set()
        self._unreaped: set[int] = set()

    async def run(self) -> str | ProbePassed:
        """Run the command: exit code 0 is a success."""
        try:
            return await self._run()
        except (EngineUnavailable, ContainerHung):
            raise
        except EngineError as error:
            return f"{self._name}: {error}"

    async def _run(self) -> str | ProbePassed:
        if await self._still_runs():
            return f"{self._name}: the previous run has still not ended"
        problem = await self._run_command()
        left = await self._engine.check(self._end_left_behind, about=self._container)
        if len(self._unreaped) > UNREAPED_LIMIT:
            return (
                f"{self._name}: has left {len(self._unreaped)} processes behind, which the container's first process "
                "does not wait for; end them in the command"
            )
        if not left:
            return problem
        names = ", ".join(sorted(set(map(_printable, left))))
        note = f"{self._name}: leaves processes behind ({names}), which are killed"
        return f"{problem}; {note}" if problem else ProbePassed(note)

    async def _run_command(self) -> str:
        environ = {VARIABLE: self._mark}
        exec_id = await self._engine.check(
            lambda docker: create_exec(docker, self._container, self._command, stdin=False, tty=False, environ=environ),
            about=self._container,
        )
        connection = await self._engine.check(
            lambda docker: start_exec(docker, exec_id, tty=False), about=self._container
        )
        output = bytearray()
        try:
            async with asyncio.timeout(self._timeout):
                await _read_output(connection, output)
                code = (await self._exit_state(exec_id)).exit_code
        except TimeoutError:
            state = await self._inspect(exec_id)
            if state.running:
                self._timed_out = exec_id
                await self._engine.check(lambda docker: _kill(docker, exec_id, self._container), about=self._container)
                return f"{self._name}: timed out after {self._timeout:g} s"
            # It has ended; somebody else holds its output open.
            code = state.exit_code
        finally:
            connection.socket.close()
        return "" if code == 0 else f"{self._name}: exit code {code}{_last_line(bytes(output))}"

    def _end_left_behind(self, docker: DockerClient) -> list[str]:
        """Kill the processes that runs have left behind; return their names. Blocks."""
        if self._first is None:
            with suppress(NotFound), docker.client() as client:
                self._first = int(client.inspect_container(self._container)["State"].get("Pid") or 0)
        if not self._first:
            return []
        mark = f"{VARIABLE}={self._mark}".encode()
        ended = end_marked(self._first, self._container, mark, self._others)
        self._unreaped = still_there(self._unreaped | ended.keys(), self._first)
        return list(ended.values())

    async def _still_runs(self) -> bool:
        """Return True while a timed-out run has not ended."""
        with suppress(NotFound):
            if self._timed_out and (await self._inspect(self._timed_out)).running:
                return True
        self._timed_out = ""
        return False

    async def _inspect(self, exec_id: str) -> ExecState:
        return await self._engine.check(lambda docker: inspect_exec(docker, exec_id), about=self._container)

    async def _exit_state(self, exec_id: str) -> ExecState:
        """Wait for the exit: the output ends a moment before the engine knows the exit code."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda state: state.running), wait=wait_exponential(multiplier=0.005, max=0.2)
        )
        state: ExecState = await retrying(self._inspect, exec_id)
        return state


async def _read_output(connection: HijackedConnection, output: bytearray) -> None:
    """Read the output into ``output`` until closed by the process; the end of it is kept."""
    loop = asyncio.get_running_loop()
    frames, chunk = FrameParser(), connection.buffered
    with suppress(MalformedFrame, ConnectionResetError):
        while True:
            for _, payload in frames.feed(chunk):
                output += payload
                del output[:-_OUTPUT_BYTES]
            chunk = await loop.sock_recv(connection.socket, _OUTPUT_BYTES)
            if not chunk:
                break


def _kill(docker: DockerClient, exec_id: str, container: str) -> None:
    """Kill a command and its process group, as far as visible from here."""
    pid = inspect_exec(docker, exec_id).pid
    send_signal(pid, container, signal.SIGKILL)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {_printable(last)[:_MESSAGE_LENGTH]}" if last else ""


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _problem(error: OSError | ValueError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused (a program that listens on 127.0.0.1 only is not reachable: use 0.0.0.0)"
    return str(getattr(error, "strerror", None) or error)


def _request(address: str, port: int, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nUser-Agent: devopsellence-agent\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()
