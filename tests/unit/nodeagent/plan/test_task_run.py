"""The record of release tasks: it only moves forward, is kept whole on disk, and counts only once it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, ContainerExit, ContainerState
from devopsellence.nodeagent.plan.task_run import KEPT_RUNS, TaskRun, task_run_from_json, task_run_to_json, with_run
from devopsellence.nodeagent.reconcile.task_store import TaskStore
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV

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
    ("given", "reason"),
    [
        (end(), ""),
        (end(2), "ended with exit code 2"),
        (end(137, oom=True), "was killed for want of memory"),
        # A child of it was killed, and it came to terms with that.
        (end(0, oom=True), ""),
    ],
)
def test_exit_decides_the_outcome(given: ContainerExit, reason: str) -> None:
    run = RUN.finished(ENDED, given)
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


async def test_stored_run_is_loaded_by_the_next_agent(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        runs = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        await runs.save(RUN.starting("c1"))
        assert runs.get(RUN.key) == runs.started_in("c1") == RUN.starting("c1")
        again = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        assert dict(again.runs) == {RUN.key: RUN.starting("c1")}
        folder.forget(ENV)
        assert folder.task_runs(ENV) == ()


async def test_unwritten_run_does_not_count(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        runs = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        (tmp_path / "tasks").rmdir()
        with pytest.raises(StateError, match="cannot be written"):
            await runs.save(RUN.starting("c1"))
        assert runs.get(RUN.key) == RUN


@pytest.mark.parametrize("content", ["", "[", "{}x", '{"a": 1}', '[{"release": 1}]', '["x"]', "[1]", "3"])
async def test_damaged_record_is_a_problem_and_stays_on_disk(tmp_path: Path, content: str) -> None:
    with StateFolder(tmp_path) as folder:
        path = tmp_path / "tasks" / f"{str(ENV).replace('/', '+')}.json"
        path.write_text(content)
        runs = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        assert str(path) in runs.problem
        with pytest.raises(StateError):
            await runs.save(RUN)
        assert path.read_text() == content
