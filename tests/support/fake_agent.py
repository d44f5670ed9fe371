"""Fake node agent for the command line: the API over mutual TLS, without Docker behind the API.

Commands run as processes on this machine, so that bytes, signals and exit codes are real; the test says the log lines.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import IO, Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence import agent_identity
from devopsellence.api.v1.agent_pb2 import (
    DiagnoseAnswer,
    DiagnoseRequest,
    FindImagesAnswer,
    FindImagesRequest,
    LoadImageAnswer,
    LoadImageRequest,
    LogLine,
    LogsAnswer,
    LogsRequest,
    RunAnswer,
    RunRequest,
    RunStart,
    RunStarted,
    SendLayerAnswer,
    SendLayerRequest,
)
from devopsellence.api.v1.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server
from devopsellence.server_certificate import CertificateFiles, ReloadingCertificate
from tests.support.ports import free_port

_THREADS = 32
_CHUNK = 32 << 10


def log_line(service: str, at: float, text: str | bytes, *, container: str = "", stderr: bool = False) -> LogLine:
    """Return a log line written ``at`` seconds after 1970."""
    stamp = Timestamp()
    stamp.FromNanoseconds(round(at * 1_000_000_000))
    raw = text if isinstance(text, bytes) else text.encode()
    return LogLine(service=service, container=container or f"c-{service}", stderr=stderr, at=stamp, line=raw)


class FakeAgent(AgentServicer):
    """Agent API without images. ``asked`` and ``started`` record the requests; the test sets the answers.

    ``refusal`` is the answer to every call. ``breaks_after``: the next stream of logs breaks after so many messages of
    at most ``batch`` lines.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.asked: list[LogsRequest] = []
        self.started: list[RunStart] = []
        self.sizes: list[tuple[int, int]] = []
        self.signals: list[str] = []
        self.diagnosis = DiagnoseAnswer(node=node)
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.breaks_after: int | None = None
        self.batch = 1
        # Number of commands ended because the caller had gone.
        self.ended = 0
        self._lines: list[LogLine] = []
        self._changed = threading.Condition()

    def say(self, *lines: LogLine) -> None:
        """Add lines to the logs of the containers."""
        with self._changed:
            self._lines += lines
            self._changed.notify_all()

    def Logs(self, request: LogsRequest, context: grpc.ServicerContext) -> Iterator[LogsAnswer]:  # noqa: N802
        """Send the requested history, then new lines as :meth:`say` adds them."""
        self._check(context)
        self.asked.append(request)
        sent = 0
        breaks_after, self.breaks_after = self.breaks_after, None
        for answer in self._answers(request, context):
            if sent == breaks_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
            yield answer
            sent += 1
        if sent == breaks_after:
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")

    def Exec(self, requests: Iterator[RunRequest], context: grpc.ServicerContext) -> Iterator[RunAnswer]:  # noqa: N802
        """Run the command on this machine."""
        self._check(context)
        start = next(requests).start
        self.started.append(start)
        yield from self._run(list(start.command.command), start, requests, context)

    def RunTask(self, requests: Iterator[RunRequest], context: grpc.ServicerContext) -> Iterator[RunAnswer]:  # noqa: N802
        """Run the command of the task on this machine."""
        self._check(context)
        start = next(requests).start
        self.started.append(start)
        yield from self._run([*start.task.command, *start.task.args], start, requests, context)

    def Diagnose(self, request: DiagnoseRequest, context: grpc.ServicerContext) -> DiagnoseAnswer:  # noqa: N802
        """Return ``diagnosis``."""
        self._check(context)
        return self.diagnosis

    def FindImages(self, request: FindImagesRequest, context: grpc.ServicerContext) -> FindImagesAnswer:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no images here")

    def SendLayer(self, requests: Iterator[SendLayerRequest], context: grpc.ServicerContext) -> SendLayerAnswer:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no images here")

    def LoadImage(self, request: LoadImageRequest, context: grpc.ServicerContext) -> LoadImageAnswer:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no images here")

    def _check(self, context: grpc.ServicerContext) -> None:
        if self.refusal is not None:
            context.set_trailing_metadata(((agent_identity.REFUSED_BY, self.node),))
            context.abort(*self.refusal)
        context.send_initial_metadata(((agent_identity.ACCEPTED_BY, self.node),))

    def _answers(self, request: LogsRequest, context: grpc.ServicerContext) -> Iterator[LogsAnswer]:
        context.add_callback(self._wake)
        position = len(self._lines)
        yield from self._batches(self._history(request, position))
        while request.follow:
            with self._changed:
                while len(self._lines) == position and context.is_active():
                    self._changed.wait(timeout=60)
                fresh, position = self._lines[position:], len(self._lines)
            if not context.is_active():
                return
            yield from self._batches([line for line in fresh if _matches(request, line)])

    def _batches(self, lines: list[LogLine]) -> Iterator[LogsAnswer]:
        for first in range(0, len(lines), self.batch):
            yield LogsAnswer(lines=lines[first : first + self.batch])

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _history(self, request: LogsRequest, position: int) -> list[LogLine]:
        by_container: dict[str, list[LogLine]] = defaultdict(list)
        for line in self._lines[:position]:
            if _matches(request, line):
                by_container[line.container].append(line)
        tails = [lines[-request.lines :] if request.lines >= 0 else lines for lines in by_container.values()]
        return [line for tail in tails for line in (tail if request.lines != 0 else [])]

    def _run(
        self, command: list[str], start: RunStart, requests: Iterator[RunRequest], context: grpc.ServicerContext
    ) -> Iterator[RunAnswer]:
        running = _Command(self, command, start)
        context.add_callback(running.caller_gone)
        yield RunAnswer(started=RunStarted(container="0123456789ab"))
        running.begin(requests)
        yield from running.answers()


class _Command:
    """Process of this machine, attached to a call."""

    def __init__(self, agent: FakeAgent, command: list[str], start: RunStart) -> None:
        self._agent = agent
        # script makes the terminal of the container.
        words = ["script", "-qec", " ".join(command), "/dev/null"] if start.tty else command
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if start.interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **dict(start.task.env)},
        )
        self._answers: queue.Queue[RunAnswer | None] = queue.Queue(8)
        self._gone = threading.Event()

    def begin(self, requests: Iterator[RunRequest]) -> None:
        """Start copying input and output."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for work, arguments in (
            (self._take, (requests,)),
            (self._copy, (self._process.stdout, lambda chunk: RunAnswer(stdout=chunk))),
            (self._copy, (self._process.stderr, lambda chunk: RunAnswer(stderr=chunk))),
        ):
            threading.Thread(target=work, args=arguments, daemon=True).start()

    def answers(self) -> Iterator[RunAnswer]:
        """Yield output as it comes, then the exit code in the form of a shell."""
        for _ in range(2):
            while (answer := self._next()) is not None:
                yield answer
        code = self._process.wait()
        yield RunAnswer(exit_code=code if code >= 0 else 128 - code)

    def caller_gone(self) -> None:
        """Kill the process; called at the end of the call."""
        self._gone.set()
        if self._process.poll() is None:
            self._agent.ended += 1
            self._process.kill()
            self._process.wait()

    def _take(self, requests: Iterator[RunRequest]) -> None:
        stdin = self._process.stdin
        # Iterating raises when the call ends.
        with suppress(grpc.RpcError, BrokenPipeError, ValueError), stdin or nullcontext():
            for request in requests:
                match request.WhichOneof("kind"):
                    case "stdin" if stdin is not None:
                        stdin.write(request.stdin)
                    case "close_stdin" if stdin is not None:
                        stdin.close()
                    case "resize":
                        self._agent.sizes.append((request.resize.columns, request.resize.rows))
                    case "signal":
                        self._agent.signals.append(request.signal)
                        self._process.send_signal(signal.Signals[request.signal])

    def _copy(self, stream: IO[bytes], answer: Callable[[bytes], RunAnswer]) -> None:
        with stream:
            while chunk := stream.read(_CHUNK):
                self._put(answer(chunk))
        self._put(None)

    def _next(self) -> RunAnswer | None:
        while not self._gone.is_set():
            with suppress(queue.Empty):
                return self._answers.get(timeout=0.1)
        return None

    def _put(self, answer: RunAnswer | None) -> None:
        while not self._gone.is_set():
            with suppress(queue.Full):
                return self._answers.put(answer, timeout=0.1)
        return None


def _matches(request: LogsRequest, line: LogLine) -> bool:
    after = not request.HasField("since") or line.at.ToNanoseconds() >= request.since.ToNanoseconds()
    return after and (not request.services or line.service in request.services)


class FakeAgentServer:
    """API of a fake agent on a port of this machine; a context manager that can be stopped and started again."""

    def __init__(self, agent: FakeAgent, files: CertificateFiles) -> None:
        self.agent = agent
        self._files = files
        self._port = free_port()
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, on the same port as before."""
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
        add_AgentServicer_to_server(self.agent, self._server)
        # Credentials are for one server.
        credentials = ReloadingCertificate(self._files).credentials()
        self._server.add_secure_port(f"127.0.0.1:{self._port}", credentials)
        self._server.start()

    def stop(self) -> None:
        """Break off all calls and stop the server."""
        if self._server is not None:
            self._server.stop(0).wait(timeout=20)
        self._server = None
