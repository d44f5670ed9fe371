"""Signals to processes of containers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

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


MARK = "DEVOPSELLENCE_PROBE=of-this-test"
#: Of both children, and of no other process of the test run.
BOTH = f"DEVOPSELLENCE_TEST=children-of-{os.getpid()}"
#: In the cgroup of every process.
ANY = "/"


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return a marked and another child, each with a child that has left its session."""
    both, marked = ({name: value} for name, _, value in (BOTH.partition("="), MARK.partition("=")))
    script = "setsid sleep 1000 & echo; wait"
    started = [
        subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, env={**os.environ, **more})
        for more in ({**both, **marked}, both)
    ]
    for child in started:
        assert child.stdout is not None
        child.stdout.readline()
    yield started
    process.end_marked(os.getpid(), ANY, BOTH.encode(), set())
    for child in started:
        child.communicate()


def test_marked_processes_alone_are_ended(children: list[subprocess.Popen[bytes]]) -> None:
    marked, other = children
    others: set[int] = set()
    ended = process.end_marked(os.getpid(), ANY, MARK.encode(), others)
    assert ended[marked.pid] == "sh"
    assert set(ended.values()) <= {"sh", "sleep", "setsid"}
    assert len(ended) == 2
    assert other.pid in others
    assert marked.wait() == -signal.SIGKILL
    assert other.poll() is None
    assert process.end_marked(os.getpid(), ANY, MARK.encode(), others) == {}


def test_ended_process_is_there_until_it_is_waited_for(children: list[subprocess.Popen[bytes]]) -> None:
    marked, _ = children
    process.end_marked(os.getpid(), ANY, MARK.encode(), set())
    os.waitid(os.P_PID, marked.pid, os.WEXITED | os.WNOWAIT)
    assert process.still_there({marked.pid}, os.getpid()) == {marked.pid}
    marked.wait()
    assert process.still_there({marked.pid}, os.getpid()) == set()


def test_processes_of_another_container_are_left_alone(children: list[subprocess.Popen[bytes]]) -> None:
    assert process.end_marked(os.getpid(), "no-such-container", MARK.encode(), set()) == {}
    assert children[0].poll() is None
