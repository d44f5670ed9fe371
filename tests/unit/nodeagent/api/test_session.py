"""Conversations, with a socket pair for the engine's connection."""

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
class Process:
    """Notes what it is told."""

    container: str = "0123456789abcdef"
    has_begun: bool = True
    told: list[str] = field(default_factory=list)
    signalled: threading.Event = field(default_factory=threading.Event)

    async def started(self) -> bool:
        return self.has_begun

    async def resize(self, size: WindowSize) -> None:
        self.told.append(f"{size.columns}x{size.rows}")

    async def signal(self, name: str) -> None:
        self.told.append(signal_named(name).name)
        self.signalled.set()


@dataclass
class Talk:
    """One conversation; the other end of the connection is ``engine``."""

    pipe: ProcessPipe
    engine: socket.socket
    process: Process = field(default_factory=Process)
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
def talk() -> Iterator[Talk]:
    yield from _talk(tty=False)


@pytest.fixture
def terminal() -> Iterator[Talk]:
    yield from _talk(tty=True)


def _talk(*, tty: bool, ahead: bytes = b"") -> Iterator[Talk]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(SECONDS)
    pipe = ProcessPipe(HijackedConnection(ours, ahead), tty=tty)
    yield Talk(pipe, theirs)
    pipe.close()
    theirs.close()


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


async def test_output_is_passed_on_until_it_ends(talk: Talk) -> None:
    talk.engine.sendall(frame(1, b"out") + frame(2, b"err") + frame(1, b"more"))
    talk.engine.close()
    await talk.hold(RunStart(), forever=True)
    assert talk.answers[0].started.container == "0123456789ab"
    assert talk.output == (b"outmore", b"err")


async def test_data_behind_the_http_response_comes_first() -> None:
    for talk in _talk(tty=False, ahead=frame(1, b"first ")[:10]):
        talk.engine.sendall(frame(1, b"first ")[10:] + frame(1, b"second"))
        talk.engine.close()
        await talk.hold(RunStart(), forever=True)
        assert talk.output == (b"first second", b"")


async def test_a_terminals_output_has_no_frames(terminal: Talk) -> None:
    terminal.engine.sendall(b"\x01\x00plain")
    terminal.engine.close()
    start = RunStart(tty=True, size=WindowSize(columns=80, rows=24))
    await terminal.hold(start, RunRequest(resize=WindowSize(columns=90, rows=30)), forever=True)
    assert terminal.output == (b"\x01\x00plain", b"")


async def test_the_engines_words_about_a_command_that_never_began_go_to_stderr(talk: Talk) -> None:
    talk.process.has_begun = False
    talk.engine.sendall(frame(1, b"no such command\r\n"))
    talk.engine.close()
    await talk.hold(RunStart(), forever=True)
    assert talk.output == (b"", b"no such command\r\n")


async def test_input_ends_when_the_caller_says_so_or_sends_no_more(talk: Talk) -> None:
    def engine() -> bytes:
        got = b""
        while data := talk.engine.recv(1000):
            got += data
        talk.engine.close()
        return got

    received = asyncio.create_task(asyncio.to_thread(engine))
    await talk.hold(RunStart(interactive=True), RunRequest(stdin=b"one "), RunRequest(stdin=b"two"))
    assert await received == b"one two"


async def test_sizes_and_signals_reach_the_process_also_after_the_input(talk: Talk) -> None:
    def engine() -> None:
        assert talk.engine.recv(10) == b""
        # The signal comes after; the process ends by it.
        assert talk.process.signalled.wait(SECONDS)
        talk.engine.close()

    ended = asyncio.create_task(asyncio.to_thread(engine))
    start = RunStart(interactive=True, tty=True, size=WindowSize(columns=80, rows=24))
    requests = [
        RunRequest(resize=WindowSize(columns=1, rows=2)),
        RunRequest(close_stdin=True),
        RunRequest(signal="INT"),
    ]
    await talk.hold(start, *requests, forever=True)
    await ended
    assert talk.process.told == ["80x24", "1x2", "SIGINT"]


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
async def test_nonsense_ends_the_conversation(talk: Talk, start: RunStart, request_: RunRequest, words: str) -> None:
    with pytest.raises(CallRefused, match=words) as caught:
        await talk.hold(start, request_, forever=True)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_input_after_its_end_is_nonsense_as_well(talk: Talk) -> None:
    with pytest.raises(CallRefused, match="stdin is closed"):
        await talk.hold(RunStart(interactive=True), RunRequest(close_stdin=True), RunRequest(stdin=b"x"), forever=True)


async def test_input_to_a_process_that_takes_no_more_is_dropped(talk: Talk) -> None:
    talk.engine.shutdown(socket.SHUT_RD)
    asyncio.get_running_loop().call_later(0.05, talk.engine.close)
    await talk.hold(RunStart(interactive=True), *(RunRequest(stdin=b"x" * 100_000) for _ in range(20)), forever=True)


async def test_a_conversation_that_is_cancelled_leaves_no_task(talk: Talk) -> None:
    holding = asyncio.create_task(talk.hold(RunStart(interactive=True), forever=True))
    async with asyncio.timeout(SECONDS):
        await talk.answered.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("first", [None, RunRequest(stdin=b"x"), RunRequest(start=RunStart())])
async def test_the_first_request_says_what_to_run(first: RunRequest | None) -> None:
    async def requests() -> AsyncIterator[RunRequest]:
        if first is not None:
            yield first

    with pytest.raises(CallRefused) as caught:
        await first_request(requests(), "command")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_signals_have_their_names_with_and_without_sig() -> None:
    assert signal_named("TERM") is signal_named("SIGTERM") is signal.SIGTERM
    for name in ("", "15", "sigterm", "SIG_IGN", "SIGSIGTERM"):
        with pytest.raises(CallRefused):
            signal_named(name)
