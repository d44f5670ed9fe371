"""The record of release tasks: it only moves forward, is kept whole on disk, and counts only once it is there."""

from __future__ import annotations

import json

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, ContainerExit, ContainerState
from devopsellence.nodeagent.plan.task_run import KEPT_RUNS, TaskRun, task_run_from_json, task_run_to_json, with_run

RUN = TaskRun(1, "release", "hash")
ENDED = Container(
    "c1", "n", "e", "web", "hash", 1, "i", ContainerState.EXITED, started_at="2026-01-01T00:00:00Z", task="release"
)


def end(code: int = 0, *, oom: bool = False) -> ContainerExit:
    return ContainerExit(code, oom, "2026-01-01T00:00:01Z", 1.0, ("last line",))


def test_task_run_only_moves_forward() -> None:
    done = RUN.starting("c1").finished(ENDED, end())
    assert done.ended
    assert done.failed("x") == done.finished(ENDED, end(1)) == done.starting("c2") == done.not_started() == done
    assert RUN.starting("c1").not_started() == RUN


@pytest.mark.parametrize(
    ("exit_", "reason"),
    [
        (end(), ""),
        (end(2), "ended with exit code 2"),
        (end(137, oom=True), "ran out of memory (exit code 137)"),
        (end(3, oom=True), "ended with exit code 3 (one of its processes ran out of memory)"),
        # A child of it was killed, and it came to terms with that.
        (end(0, oom=True), ""),
    ],
)
def test_exit_decides_the_outcome(exit_: ContainerExit, reason: str) -> None:
    run = RUN.finished(ENDED, exit_)
    assert run.reason == reason
    assert run.phase == (stored_pb2.TaskStatus.FAILED if reason else stored_pb2.TaskStatus.SUCCEEDED)


def test_task_run_survives_disk_and_later_versions() -> None:
    for run in (RUN, RUN.starting("c1"), RUN.failed("x"), RUN.finished(ENDED, end(3))):
        assert task_run_from_json({**json.loads(json.dumps(task_run_to_json(run))), "later": 1}) == run


def test_newest_runs_are_kept() -> None:
    runs: tuple[TaskRun, ...] = ()
    for release in range(1, KEPT_RUNS + 10):
        runs = with_run(runs, TaskRun(release, "release", "hash"))
    assert len(runs) == KEPT_RUNS
    # Numbers may begin anew, with an etcd that lost everything.
    assert with_run(runs, RUN)[-1] == RUN
    assert with_run(with_run(runs, RUN), RUN.failed("x")).count(RUN) == 0
