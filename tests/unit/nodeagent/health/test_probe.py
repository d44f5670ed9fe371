"""Commands as health checks, on an engine whose answers the test decides."""

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
    """What :func:`question` needs of an engine and of the SDK below it. ``says``: what a command writes; with ``hangs``
    it does not end. ``fails``: raised by every call."""

    def __init__(self, says: bytes = b"", code: int = 0, *, hangs: bool = False) -> None:
        self.says = says
        self.code = code
        self.hangs = hangs
        self.running = False
        self.began = 0
        self.unsettled = 0
        self.fails: Exception | None = None
        self._open: list[socket.socket] = []

    async def check(self, call: Callable[[Any], Any]) -> Any:
        return call(self)

    @contextmanager
    def client(self) -> Iterator[Engine]:
        if self.fails is not None:
            raise self.fails
        yield self

    def exec_create(self, _container: str, _command: list[str], **_options: bool) -> dict[str, str]:
        assert not self.running, "two at a time"
        return {"Id": "e1"}

    def exec_start(self, _execution: str, **_options: bool) -> Any:
        self.began += 1
        self.running = self.hangs
        ours, theirs = socket.socketpair()
        ours.sendall(b"".join(struct.pack(">BxxxL", 2, 1) + bytes([each]) for each in self.says))
        if self.hangs:
            self._open.append(ours)
        else:
            ours.close()
        raw = SimpleNamespace(_fp=SimpleNamespace(fp=SimpleNamespace(peek=lambda: b"")))
        return SimpleNamespace(_sock=theirs, _response=SimpleNamespace(raw=raw, close=theirs.close))

    def exec_inspect(self, _execution: str) -> dict[str, Any]:
        self.unsettled -= 1
        running = self.running or self.unsettled >= 0
        return {"Running": running, "ExitCode": None if running else self.code, "Pid": 0}

    def close(self) -> None:
        for each in self._open:
            each.close()


def asked(engine: Engine, timeout: float = 20.0, *command: str) -> ProbeCall:
    probe = Probe(ProbeTiming(timeout=timeout), command=command or ("redis-cli", "ping"))
    return probe_call(engine, probe, "c1", "172.18.0.2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("says", "code", "expected"),
    [
        (b"PONG\n", 0, ""),
        (b"", 3, "redis-cli ping: exit code 3"),
        (b"Could not connect\nrefused\x1b[0m\n\n", 1, "redis-cli ping: exit code 1: refused [0m"),
        (b"x" * 5000, 1, f"redis-cli ping: exit code 1: {'x' * 200}"),
        (b"\xff", 1, "redis-cli ping: exit code 1: \N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_exec_probe_reports_exit_code_and_last_line(says: bytes, code: int, expected: str) -> None:
    assert await asked(Engine(says, code))() == expected


async def test_a_long_command_is_shortened_and_stays_on_one_line() -> None:
    said = await asked(Engine(code=1), 20.0, "sh", "-c", "one\ntwo " + "x" * 100)()
    assert said.startswith("sh -c 'one two xxx")
    assert said.endswith("x…: exit code 1")


async def test_exec_output_may_end_before_its_exit_code() -> None:
    engine = Engine(code=4)
    engine.unsettled = 3
    assert await asked(engine)() == "redis-cli ping: exit code 4"


async def test_running_exec_is_not_repeated() -> None:
    engine = Engine(hangs=True)
    ask = asked(engine, 0.01)
    assert await ask() == "redis-cli ping: timed out after 0.01 s"
    assert await ask() == "redis-cli ping: the previous run has still not ended"
    assert engine.began == 1
    engine.running = False
    assert await ask() == "redis-cli ping: timed out after 0.01 s"
    assert engine.began == 2
    engine.close()


async def test_forgotten_exec_has_ended() -> None:
    engine = Engine(hangs=True)
    ask = asked(engine, 0.01)
    await ask()
    engine.fails = NotFound("no such exec instance: e1")
    assert await ask() == "redis-cli ping: no such exec instance: e1"
    engine.fails, engine.hangs, engine.running = None, False, False
    assert await asked(engine)() == ""
    engine.close()


async def test_engine_refusal_is_a_failure_and_silence_is_unknown() -> None:
    engine = Engine()
    engine.fails = Conflict("container c1 is not running")
    assert await asked(engine)() == "redis-cli ping: container c1 is not running"
    engine.fails = EngineUnavailable("gone")
    with pytest.raises(EngineUnavailable):
        await asked(engine)()
