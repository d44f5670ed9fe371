"""Signals to processes of containers."""

from __future__ import annotations

import os
import signal

import pytest

from devopsellence.nodeagent.docker import process
from devopsellence.nodeagent.docker.process import running_time


@pytest.mark.parametrize(
    ("name", "expected"), [("TERM", signal.SIGTERM), ("SIGTERM", signal.SIGTERM), ("", None), ("sigterm", None)]
)
def test_signal_number_by_name(name: str, expected: signal.Signals | None) -> None:
    assert process.signal_number(name) is expected


@pytest.mark.parametrize("pid", [0, -1])
def test_invalid_pid_is_not_reachable(pid: int) -> None:
    assert not process.send_signal(pid, "c1", signal.SIGTERM)


def test_running_time_needs_a_process_of_the_container() -> None:
    # Every process's control groups have a path.
    assert (running_time(os.getpid(), "/") or -1.0) >= 0.0
    assert running_time(os.getpid(), "no-such-container") is None
    assert running_time(0, "/") is None


async def test_process_outside_the_container_is_not_reachable() -> None:
    assert not process.send_signal(os.getpid(), "no-such-container", signal.SIGTERM)
    assert not await process.hang_up(os.getpid(), "no-such-container")
