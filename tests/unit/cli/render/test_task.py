"""Display of the release task."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    Rollout,
    TaskStatus,
)
from devopsellence.cli.render import json as document
from devopsellence.cli.render import text
from tests.unit.cli.render.snapshots import (
    NOW,
    ago,
    rollout,
    snapshot,
)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"phase": TaskStatus.WAITING, "reason": "waits for redis: not healthy yet"},
            "Task         release on n1: waiting: waits for redis: not healthy yet",
        ),
        ({"phase": TaskStatus.RUNNING, "started_at": ago(4)}, "Task         release on n1: running for 4.0s"),
        (
            {"phase": TaskStatus.SUCCEEDED, "started_at": ago(20), "finished_at": ago(8)},
            "Task         release on n1: succeeded in 12s",
        ),
        (
            {"phase": TaskStatus.FAILED, "started_at": ago(20), "finished_at": ago(8), "reason": "exit code 3"},
            "Task         release on n1: failed after 12s: exit code 3",
        ),
    ],
)
def test_release_task_line(fields: dict[str, Any], line: str) -> None:
    task = TaskStatus(name="release", node="n1", release=2, **fields)
    shown = text.status(snapshot(rollout=rollout(Rollout.PROGRESSING, task=task)), NOW)
    assert line in shown.splitlines()


def test_failed_task_shows_last_lines() -> None:
    task = TaskStatus(name="release", node="n1", release=2, phase=TaskStatus.FAILED)
    task.exit.code = 3
    task.exit.log_lines.extend(["no such table", "\x1b[31mbad"])
    state = snapshot(rollout=rollout(Rollout.FAILED, task=task))
    lines = text.status(state, NOW).splitlines()
    assert "task release on n1: last lines:" in lines
    assert "    no such table" in lines
    assert not any("\x1b" in line for line in lines)
    shown = document.status(state, NOW)["rollout"]["task"]
    assert (shown["phase"], shown["exit_code"]) == ("failed", 3)


def test_task_of_earlier_release_is_not_shown() -> None:
    task = TaskStatus(name="release", node="n1", release=1, phase=TaskStatus.SUCCEEDED)
    old = rollout(Rollout.SETTLED, release=1, task=task)
    assert "Task" not in text.status(snapshot(rollout=old), NOW)
