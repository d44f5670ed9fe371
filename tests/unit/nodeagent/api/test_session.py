"""Sessions, over a socket pair in place of the engine's connection."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from devopsellence.agent_identity import CHUNK_BYTES
from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest, RunStart, WindowSize
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.session import converse, first_request, signal_named
from devopsellence.nodeagent.docker.pipe import ProcessPipe
from devopsellence.nodeagent.docker.streams import HijackedConnection

SECONDS = 20


@dataclass
class FakeProcess:
    """Process that records sizes and signals."""

    container: str = "0123456789abcdef"
    has_started: bool = True
    received_controls: list[str] = field(default_factory=list)
    signalled: threading.Event = field(default_factory=threading.Event)

    async def started(self) -> bool:
        return self.has_started

    async def resize(self, size: WindowSize) -> None:
        self.received_controls.append(f"{size.columns}x{size.rows}")

    async def signal(self, name: str) -> None:
        self.received_controls.append(signal_named(name).name)
        self.signalled.set()


@dataclass
class Session:
    """A session; ``engine`` is the engine's end of the connection."""

    pipe: ProcessPipe
    engine: socket.socket
    process: FakeProcess = field(default_factory=FakeProcess)
    answers: list[RunAnswer] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self, start: RunStart, *requests: RunRequest, forever: bool = False) -> None:
        async def send() -> AsyncIterator[RunRequest]:
            for request in requests:
                yield request
            if forever:
                await asyncio.Event().wait()

        async def answer(message: RunAnswer) -> None:
            self.answers.append(message)
            self.answered.set()

        async with asyncio.timeout(SECONDS):
            await converse(self.process, self.pipe, start, send(), answer)

    @property
    def output(self) -> tuple[bytes, bytes]:
        return b"".join(answer.stdout for answer in self.answers), b"".join(answer.stderr for answer in self.answers)


@pytest.fixture
def session() -> Iterator[Session]:
    yield from _session(tty=False)


@pytest.fixture
def terminal() -> Iterator[Session]:
    yield from _session(tty=True)


def _session(*, tty: bool, buffered: bytes = b"") -> Iterator[Session]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(SECONDS)
    pipe = ProcessPipe(HijackedConnection(ours, buffered), tty=tty)
    yield Session(pipe, theirs)
    pipe.close()
    theirs.close()


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


async def test_output_is_forwarded_to_its_end(session: Session) -> None:
    session.engine.sendall(frame(1, b"out") + frame(2, b"err") + frame(1, b"more"))
    session.engine.close()
    await session.hold(RunStart(), forever=True)
    assert session.answers[0].started.container == "0123456789ab"
    assert session.output == (b"outmore", b"err")


async def test_data_behind_the_http_response_comes_first() -> None:
    for session in _session(tty=False, buffered=frame(1, b"first ")[:10]):
        session.engine.sendall(frame(1, b"first ")[10:] + frame(1, b"second"))
        session.engine.close()
        await session.hold(RunStart(), forever=True)
        assert session.output == (b"first second", b"")


async def test_terminal_output_has_no_frames(terminal: Session) -> None:
    terminal.engine.sendall(b"\x01\x00plain")
    terminal.engine.close()
    start = RunStart(tty=True, size=WindowSize(columns=80, rows=24))
    await terminal.hold(start, RunRequest(resize=WindowSize(columns=90, rows=30)), forever=True)
    assert terminal.output == (b"\x01\x00plain", b"")


async def test_start_failure_goes_to_stderr(session: Session) -> None:
    session.process.has_started = False
    session.engine.sendall(frame(1, b"no such command\r\n"))
    session.engine.close()
    await session.hold(RunStart(), forever=True)
    assert session.output == (b"", b"no such command\r\n")


async def test_stdin_is_closed_at_the_end_of_requests(session: Session) -> None:
    def engine() -> bytes:
        received_data = b""
        while data := session.engine.recv(1000):
            received_data += data
        session.engine.close()
        return received_data

    received = asyncio.create_task(asyncio.to_thread(engine))
    await session.hold(RunStart(interactive=True), RunRequest(stdin=b"one "), RunRequest(stdin=b"two"))
    assert await received == b"one two"


async def test_sizes_and_signals_arrive_after_stdin_is_closed(session: Session) -> None:
    def engine() -> None:
        assert session.engine.recv(10) == b""
        # The signal comes after; the process ends by it.
        assert session.process.signalled.wait(SECONDS)
        session.engine.close()

    ended = asyncio.create_task(asyncio.to_thread(engine))
    start = RunStart(interactive=True, tty=True, size=WindowSize(columns=80, rows=24))
    requests = [
        RunRequest(resize=WindowSize(columns=1, rows=2)),
        RunRequest(close_stdin=True),
        RunRequest(signal="INT"),
    ]
    await session.hold(start, *requests, forever=True)
    await ended
    assert session.process.received_controls == ["80x24", "1x2", "SIGINT"]


@pytest.mark.parametrize(
    ("start", "request_", "words"),
    [
        (RunStart(), RunRequest(stdin=b"x"), "stdin is closed"),
        (RunStart(interactive=True), RunRequest(stdin=b"x" * (CHUNK_BYTES + 1)), "at most"),
        (RunStart(), RunRequest(signal="SIGNOTHING"), "unknown signal 'SIGNOTHING'"),
        (RunStart(tty=True), RunRequest(resize=WindowSize()), "invalid terminal size: 0 columns, 0 rows"),
        (RunStart(tty=True), RunRequest(resize=WindowSize(columns=80, rows=70000)), "invalid terminal size"),
        (RunStart(), RunRequest(), "unknown request"),
        (RunStart(), RunRequest(start=RunStart()), "unknown request"),
    ],
)
async def test_invalid_request_ends_the_session(
    session: Session, start: RunStart, request_: RunRequest, words: str
) -> None:
    with pytest.raises(CallRefused, match=words) as caught:
        await session.hold(start, request_, forever=True)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_stdin_after_close_is_refused(session: Session) -> None:
    with pytest.raises(CallRefused, match="stdin is closed"):
        await session.hold(
            RunStart(interactive=True), RunRequest(close_stdin=True), RunRequest(stdin=b"x"), forever=True
        )


async def test_stdin_is_dropped_after_the_process_closed_it(session: Session) -> None:
    session.engine.shutdown(socket.SHUT_RD)
    asyncio.get_running_loop().call_later(0.05, session.engine.close)
    await session.hold(RunStart(interactive=True), *(RunRequest(stdin=b"x" * 100_000) for _ in range(20)), forever=True)


async def test_cancelled_session_leaves_no_task(session: Session) -> None:
    holding = asyncio.create_task(session.hold(RunStart(interactive=True), forever=True))
    async with asyncio.timeout(SECONDS):
        await session.answered.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("first", [None, RunRequest(stdin=b"x"), RunRequest(start=RunStart())])
async def test_invalid_first_request_is_refused(first: RunRequest | None) -> None:
    async def requests() -> AsyncIterator[RunRequest]:
        if first is not None:
            yield first

    with pytest.raises(CallRefused) as caught:
        await first_request(requests(), "command")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_signal_names_with_and_without_sig() -> None:
    assert signal_named("TERM") is signal_named("SIGTERM") is signal.SIGTERM
    for name in ("", "15", "sigterm", "SIG_IGN", "SIGSIGTERM"):
        with pytest.raises(CallRefused):
            signal_named(name)
