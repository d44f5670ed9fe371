"""Signals unwind a command: cleanup runs, and the exit code names the signal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from devopsellence.cli import errors, signals
from devopsellence.cli.main import main
from devopsellence.cli.options import add_global_options
from devopsellence.cli.signals import Interrupted

ENDING = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Check that every test leaves the handlers as they were."""
    before = [signal.getsignal(number) for number in (*ENDING, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (*ENDING, signal.SIGINT)] == before


@pytest.mark.parametrize("number", ENDING)
def test_signal_cancels_the_work_and_waits_for_its_cleanup(number: signal.Signals) -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            # A second signal does not cut the cleanup short.
            os.kill(os.getpid(), number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append("cleaned up")

    with pytest.raises(Interrupted) as interrupted:
        signals.run(work())
    assert (interrupted.value.number, steps) == (number, ["cleaned up"])


def test_error_of_the_cleanup_does_not_hide_the_signal() -> None:
    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.Event().wait()
        finally:
            raise OSError(5, "the terminal is closed")

    with pytest.raises(Interrupted):
        signals.run(work())


def test_work_without_signal_returns_its_result_or_its_error() -> None:
    async def result() -> int:
        return 3

    async def error() -> None:
        raise LookupError

    assert signals.run(result()) == 3
    with pytest.raises(LookupError):
        signals.run(error())


async def test_work_in_a_thread_runs_without_handlers() -> None:
    async def result() -> int:
        return 3

    assert await asyncio.to_thread(lambda: signals.run(result())) == 3


@pytest.mark.parametrize("number", ENDING)
def test_signal_outside_of_an_event_loop_raises(number: signal.Signals) -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            os.kill(os.getpid(), number)
            steps.append("cleaned up")

    with pytest.raises(Interrupted) as interrupted, signals.unwinding():
        work()
    assert (interrupted.value.number, steps) == (number, ["cleaned up"])


def test_ignored_signal_stays_ignored() -> None:
    async def work() -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        return "done"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with signals.unwinding():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.run(work()) == "done"
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("error", "text", "exit_code"),
    [
        (KeyboardInterrupt(), "interrupted; nothing was written", 130),
        (Interrupted(signal.SIGTERM), "ended by SIGTERM; nothing was written", 143),
        (Interrupted(signal.SIGHUP), "ended by SIGHUP; nothing was written", 129),
    ],
    ids=str,
)
def test_message_names_signal_and_progress(error: BaseException, text: str, exit_code: int) -> None:
    explained = errors.interrupted(error, "nothing was written")
    assert (explained.code, explained.message, explained.exit_code) == ("interrupted", text, exit_code)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_command_without_event_loop_ends_with_the_code_of_the_signal(
    number: signal.Signals, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def status() -> None:
        os.kill(os.getpid(), number)
        signal.pause()

    add_global_options(status)
    monkeypatch.setitem(main.commands, "status", status)
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, result.stderr) == (exit_code, f"Error: ended by {number.name}\n")
