"""Signals to processes of containers."""

from __future__ import annotations

import os
import signal

import pytest

from devopsellence.nodeagent.docker import process


@pytest.mark.parametrize(
    ("name", "expected"), [("TERM", signal.SIGTERM), ("SIGTERM", signal.SIGTERM), ("", None), ("sigterm", None)]
)
def test_signal_number_by_name(name: str, expected: signal.Signals | None) -> None:
    assert process.signal_number(name) is expected


@pytest.mark.parametrize("pid", [0, -1])
def test_invalid_pid_is_not_reachable(pid: int) -> None:
    assert not process.send_signal(pid, "c1", signal.SIGTERM)


async def test_process_outside_the_container_is_not_reachable() -> None:
    assert not process.send_signal(os.getpid(), "no-such-container", signal.SIGTERM)
    assert not await process.hang_up(os.getpid(), "no-such-container")
