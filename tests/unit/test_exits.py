"""Exits in words, and which output of a service is the newest."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Exit, ServiceStatus, UnhealthyContainer
from devopsellence.exits import describe_end, describe_exit, last_output


@pytest.mark.parametrize(
    ("code", "oom_killed", "noun", "predicate"),
    [
        (0, False, "exit code 0", "ended with exit code 0"),
        (3, False, "exit code 3", "ended with exit code 3"),
        (137, False, "exit code 137", "ended with exit code 137"),
        (137, True, "exit code 137, out of memory", "ran out of memory (exit code 137)"),
        (
            3,
            True,
            "exit code 3, one of its processes ran out of memory",
            "ended with exit code 3 (one of its processes ran out of memory)",
        ),
    ],
)
def test_exit_code_is_never_hidden(code: int, oom_killed: bool, noun: str, predicate: str) -> None:
    assert describe_exit(code, oom_killed=oom_killed) == noun
    assert describe_end(code, oom_killed=oom_killed) == predicate


@pytest.mark.parametrize(
    ("ended", "unhealthy", "lines"),
    [
        (None, None, []),
        (10, None, ["ended"]),
        (None, 10, ["unhealthy"]),
        (10, 20, ["unhealthy"]),
        (20, 10, ["ended"]),
    ],
)
def test_newest_output_of_a_service(ended: int | None, unhealthy: int | None, lines: list[str]) -> None:
    status = ServiceStatus()
    if ended is not None:
        status.last_exit.CopyFrom(Exit(code=1, log_lines=["ended"]))
        status.last_exit.finished_at.FromSeconds(ended)
    if unhealthy is not None:
        status.last_unhealthy.CopyFrom(UnhealthyContainer(log_lines=["unhealthy"]))
        status.last_unhealthy.at.FromSeconds(unhealthy)
    assert list(last_output(status)) == lines
