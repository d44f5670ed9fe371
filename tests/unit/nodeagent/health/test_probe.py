"""Exec probes, against a scripted engine."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from devopsellence.nodeagent.docker.errors import Conflict, EngineUnavailable, NotFound
from devopsellence.nodeagent.health.probe import ProbeCall, probe_call
from devopsellence.nodeagent.plan.probe_spec import Probe, ProbeTiming


class Engine:
    """Fake engine and SDK client for :func:`probe_call`. ``output``: of the command. ``hangs``: the command does not
    end. ``holds_output``: it has ended, and another process has its output open. ``fails``: raised by every call."""

    def __init__(self, output: bytes = b"", code: int = 0, *, hangs: bool = False, holds_output: bool = False) -> None:
        self.output = output
        self.code = code
        self.hangs = hangs
        self.holds_output = holds_output
        self.running = False
        self.starts = 0
        self.unsettled = 0
        self.fails: Exception | None = None
        self._open: list[socket.socket] = []

    async def check(self, call: Callable[[Any], Any], *, about: str = "") -> Any:
        del about
        return call(self)

    @contextmanager
    def client(self) -> Iterator[Engine]:
        if self.fails is not None:
            raise self.fails
        yield self

    def exec_create(self, _container: str, _command: list[str], **_options: Any) -> dict[str, str]:
        assert not self.running, "two at a time"
        return {"Id": "e1"}

    def exec_start(self, _execution: str, **_options: bool) -> Any:
        self.starts += 1
        self.running = self.hangs
        ours, theirs = socket.socketpair()
        ours.sendall(b"".join(struct.pack(">BxxxL", 2, 1) + bytes([byte]) for byte in self.output))
        if self.hangs or self.holds_output:
            self._open.append(ours)
        else:
            ours.close()
        raw = SimpleNamespace(_fp=SimpleNamespace(fp=SimpleNamespace(peek=lambda: b"")))
        return SimpleNamespace(_sock=theirs, _response=SimpleNamespace(raw=raw, close=theirs.close))

    def exec_inspect(self, _execution: str) -> dict[str, Any]:
        self.unsettled -= 1
        running = self.running or self.unsettled >= 0
        return {"Running": running, "ExitCode": None if running else self.code, "Pid": 0}

    def inspect_container(self, _container: str) -> dict[str, Any]:
        return {"State": {"Pid": 0}}

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def probe_of(engine: Engine, timeout: float = 20.0, *command: str) -> ProbeCall:
    probe = Probe(ProbeTiming(timeout=timeout), command=command or ("redis-cli", "ping"))
    return probe_call(engine, probe, "c1", "172.18.0.2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        (b"PONG\n", 0, ""),
        (b"", 3, "redis-cli ping: exit code 3"),
        (b"Could not connect\nrefused\x1b[0m\n\n", 1, "redis-cli ping: exit code 1: refused [0m"),
        (b"x" * 5000, 1, f"redis-cli ping: exit code 1: {'x' * 200}"),
        (b"\xff", 1, "redis-cli ping: exit code 1: \N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_exec_probe_reports_exit_code_and_last_line(output: bytes, code: int, expected: str) -> None:
    assert await probe_of(Engine(output, code))() == expected


async def test_long_command_is_shortened_to_a_single_line() -> None:
    message = await probe_of(Engine(code=1), 20.0, "sh", "-c", "one\ntwo " + "x" * 100)()
    assert isinstance(message, str)
    assert message.startswith("sh -c 'one two xxx")
    assert message.endswith("x…: exit code 1")


async def test_exec_output_may_end_before_the_exit_code() -> None:
    engine = Engine(code=4)
    engine.unsettled = 3
    assert await probe_of(engine)() == "redis-cli ping: exit code 4"


@pytest.mark.parametrize(("code", "expected"), [(0, ""), (3, "redis-cli ping: exit code 3: said before")])
async def test_exit_code_counts_while_a_process_left_behind_holds_the_output(code: int, expected: str) -> None:
    engine = Engine(b"said before\n", code, holds_output=True)
    assert await probe_of(engine, 0.05)() == expected
    engine.close()


async def test_running_exec_is_not_repeated() -> None:
    engine = Engine(hangs=True)
    call_probe = probe_of(engine, 0.01)
    assert await call_probe() == "redis-cli ping: timed out after 0.01 s"
    assert await call_probe() == "redis-cli ping: the previous run has still not ended"
    assert engine.starts == 1
    engine.running = False
    assert await call_probe() == "redis-cli ping: timed out after 0.01 s"
    assert engine.starts == 2
    engine.close()


async def test_exec_unknown_to_the_engine_counts_as_ended() -> None:
    engine = Engine(hangs=True)
    call_probe = probe_of(engine, 0.01)
    await call_probe()
    engine.fails = NotFound("no such exec instance: e1")
    assert await call_probe() == "redis-cli ping: no such exec instance: e1"
    engine.fails, engine.hangs, engine.running = None, False, False
    assert await probe_of(engine)() == ""
    engine.close()


async def test_engine_refusal_fails_and_missing_answer_raises() -> None:
    engine = Engine()
    engine.fails = Conflict("container c1 is not running")
    assert await probe_of(engine)() == "redis-cli ping: container c1 is not running"
    engine.fails = EngineUnavailable("gone")
    with pytest.raises(EngineUnavailable):
        await probe_of(engine)()
