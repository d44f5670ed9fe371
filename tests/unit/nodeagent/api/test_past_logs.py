"""Choice of containers by release, task, or being gone; and the messages with their output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.api.v1.agent_pb2 import LogsAnswer, LogsRequest
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.past_logs import (
    choose_archived,
    choose_present,
    is_about_past,
    newest_run,
    send_archived,
)
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.log_archive import ArchivedLog, LogArchive
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV, container, service
from tests.unit.nodeagent.test_log_archive import frame, removed


def kept(name: str, release: int, removed_at: int, task: str = "") -> ArchivedLog:
    return ArchivedLog(name, task, release, f"{name}{removed_at}", removed_at, Path("none"))


KEPT = [
    kept("web", 1, 1), kept("web", 2, 2), kept("redis", 1, 3), kept("web", 2, 4),
    kept("web", 1, 5, task="migrate"), kept("web", 2, 6, task="migrate"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "chosen"),
    [
        pytest.param(LogsRequest(previous=True), ["redis3", "web4"], id="previous: the newest of each service"),
        pytest.param(LogsRequest(previous=True, services=["web"]), ["web4"], id="previous of a service"),
        pytest.param(LogsRequest(previous=True, release=1), ["redis3", "web1"], id="previous of a release"),
        pytest.param(LogsRequest(release=2), ["web2", "web4"], id="release: all of its containers"),
        pytest.param(LogsRequest(release=9), [], id="release that has none"),
        pytest.param(LogsRequest(task="migrate", release=1), ["web5"], id="run of a task in a release"),
        pytest.param(LogsRequest(task="other"), [], id="unknown task"),
    ],
)
def test_kept_output_is_chosen(request_: LogsRequest, chosen: list[str]) -> None:
    assert [log.container for log in choose_archived(KEPT, request_)] == chosen


def present(identity: str, *, release: int = 1, task: str = "", one_off: bool = False) -> Container:
    return replace(container(service(), identity=identity, release=release), task=task, one_off=one_off)


THERE = [present("one"), present("two", release=2), present("run", release=2, task="migrate"),
         present("by-hand", release=2, task="migrate", one_off=True)]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "chosen"),
    [
        (LogsRequest(previous=True), []),
        (LogsRequest(release=2), ["two"]),
        (LogsRequest(task="migrate", release=2), ["run"]),
    ],
)
def test_present_containers_are_chosen(request_: LogsRequest, chosen: list[str]) -> None:
    assert [there.id for there in choose_present(THERE, request_)] == chosen


def test_newest_run_of_a_task_is_present_or_gone() -> None:
    assert newest_run(KEPT, (), "migrate") == 2
    assert newest_run(KEPT, [present("run", release=3, task="migrate")], "migrate") == 3
    assert newest_run(KEPT, [present("by-hand", release=4, task="migrate", one_off=True)], "migrate") == 2
    assert newest_run((), (), "migrate") == 0


@pytest.mark.parametrize("request_", [LogsRequest(previous=True), LogsRequest(release=1), LogsRequest(task="migrate")])
def test_past_is_not_followed(request_: LogsRequest) -> None:
    assert is_about_past(request_)
    request_.follow = True
    with pytest.raises(CallRefused, match="cannot be followed"):
        is_about_past(request_)


def test_present_is_not_about_the_past() -> None:
    assert not is_about_past(LogsRequest(follow=True))


async def sent(logs: list[ArchivedLog], request: LogsRequest) -> list[LogsAnswer]:
    answers: list[LogsAnswer] = []

    async def answer(message: LogsAnswer) -> None:
        answers.append(message)

    await send_archived(logs, request, answer, ThreadPool(1, "test"))
    return answers


@pytest.mark.parametrize(("lines", "shown"), [(-1, ["0", "1", "2"]), (2, ["1", "2"]), (0, []), (9, ["0", "1", "2"])])
async def test_last_lines_are_sent(tmp_path: Path, lines: int, shown: list[str]) -> None:
    archive = LogArchive(tmp_path)
    archive.save(removed(), b"".join(frame(str(second), second=second) for second in range(3)), 1)
    answers = await sent(list(archive.of(ENV)), LogsRequest(lines=lines))
    assert [line.line.decode() for answer in answers for line in answer.lines] == shown
    assert all((line.service, line.container) == ("web", "a" * 12) for answer in answers for line in answer.lines)


async def test_messages_have_a_limited_size(tmp_path: Path) -> None:
    archive = LogArchive(tmp_path)
    archive.save(removed(), b"".join(frame("x" * 16000) for _ in range(12)), 1)
    answers = await sent(list(archive.of(ENV)), LogsRequest(lines=-1))
    assert [len(answer.lines) for answer in answers] == [4, 4, 4]


async def test_output_dropped_meanwhile_is_left_out() -> None:
    assert await sent([kept("web", 1, 1)], LogsRequest(lines=-1)) == []
