"""The record of release tasks: it only moves forward, is kept whole on disk, and counts only once it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, End, State
from devopsellence.nodeagent.plan.task_run import REMEMBERED, Run, newest, run_from, run_to
from devopsellence.nodeagent.reconcile.task_store import Runs
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import Pool
from tests.unit.nodeagent.support import ENV

RUN = Run(1, "release", "hash")
ENDED = Container(
    "c1", "n", "e", "web", "hash", 1, "i", State.EXITED, started_at="2026-01-01T00:00:00Z", task="release"
)


def end(code: int = 0, *, oom: bool = False) -> End:
    return End(code, oom, "2026-01-01T00:00:01Z", 1.0, ("last line",))


def test_it_only_moves_forward() -> None:
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
def test_how_it_ended_decides(given: End, reason: str) -> None:
    run = RUN.finished(ENDED, given)
    assert run.reason == reason
    assert run.phase == (stored_pb2.TaskStatus.FAILED if reason else stored_pb2.TaskStatus.SUCCEEDED)


def test_it_is_the_same_after_the_disk_also_from_a_later_version() -> None:
    for run in (RUN, RUN.starting("c1"), RUN.failed("x"), RUN.finished(ENDED, end(3))):
        assert run_from({**json.loads(json.dumps(run_to(run))), "later": 1}) == run


def test_the_last_changed_are_remembered() -> None:
    runs: tuple[Run, ...] = ()
    for release in range(1, REMEMBERED + 10):
        runs = newest(runs, Run(release, "release", "hash"))
    assert len(runs) == REMEMBERED
    # Numbers may begin anew, with an etcd that lost everything.
    assert newest(runs, RUN)[-1] == RUN
    assert newest(newest(runs, RUN), RUN.failed("x")).count(RUN) == 0


async def test_what_is_kept_is_there_for_the_next_agent(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        runs = await Runs.load(ENV, folder, Pool(1, "disk"))
        await runs.keep(RUN.starting("c1"))
        assert runs.of(RUN.key) == runs.started_in("c1") == RUN.starting("c1")
        again = await Runs.load(ENV, folder, Pool(1, "disk"))
        assert dict(again.known) == {RUN.key: RUN.starting("c1")}
        folder.forget(ENV)
        assert folder.runs(ENV) == ()


async def test_what_cannot_be_written_does_not_count(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        runs = await Runs.load(ENV, folder, Pool(1, "disk"))
        (tmp_path / "tasks").rmdir()
        with pytest.raises(StateError, match="cannot be written"):
            await runs.keep(RUN.starting("c1"))
        assert runs.of(RUN.key) == RUN


@pytest.mark.parametrize("content", ["", "[", "{}x", '{"a": 1}', '[{"release": 1}]', '["x"]', "[1]", "3"])
async def test_a_damaged_record_is_a_problem_and_never_an_empty_one(tmp_path: Path, content: str) -> None:
    with StateFolder(tmp_path) as folder:
        path = tmp_path / "tasks" / f"{str(ENV).replace('/', '+')}.json"
        path.write_text(content)
        runs = await Runs.load(ENV, folder, Pool(1, "disk"))
        assert str(path) in runs.problem
        with pytest.raises(StateError):
            await runs.keep(RUN)
        assert path.read_text() == content
