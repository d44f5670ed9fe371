"""Records of release tasks on disk: loaded by the next agent, in effect once written, never taken as empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.nodeagent.plan.task_run import TaskRun
from devopsellence.nodeagent.reconcile.task_store import TaskStore
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV

RUN = TaskRun(1, "release", "hash")


async def test_stored_run_is_loaded_by_the_next_agent(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        tasks = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        await tasks.save(RUN.starting("c1"))
        assert tasks.get(RUN.key) == tasks.started_in("c1") == RUN.starting("c1")
        again = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        assert dict(again.runs) == {RUN.key: RUN.starting("c1")}
        folder.forget(ENV)
        assert folder.task_runs(ENV) == ()


async def test_unwritten_run_does_not_count(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        tasks = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        (tmp_path / "tasks").rmdir()
        (tmp_path / "tasks").touch()
        with pytest.raises(StateError, match="cannot be written"):
            await tasks.save(RUN.starting("c1"))
        assert tasks.get(RUN.key) == RUN


@pytest.mark.parametrize("content", ["", "[", "{}x", '{"a": 1}', '[{"release": 1}]', '["x"]', "[1]", "3"])
async def test_damaged_record_is_a_problem_and_stays_on_disk(tmp_path: Path, content: str) -> None:
    with StateFolder(tmp_path) as folder:
        path = tmp_path / "tasks" / f"{str(ENV).replace('/', '+')}.json"
        path.write_text(content)
        tasks = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        assert str(path) in tasks.problem
        with pytest.raises(StateError):
            await tasks.save(RUN)
        assert path.read_text() == content
