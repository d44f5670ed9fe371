"""Output of removed containers: what is kept, for how long, and what a damaged file does."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.nodeagent import log_archive
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.log_archive import MAX_CONTAINERS, LogArchive
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.planning import ENV, container, service

OTHER = EnvironmentRef("acme", "shop", "staging")


def frame(text: str, *, stderr: bool = False, second: int = 0) -> bytes:
    payload = f"2026-01-01T00:00:{second:02}Z {text}\n".encode()
    return struct.pack(">BxxxL", 2 if stderr else 1, len(payload)) + payload


def removed(name: str = "web", identity: str = "a" * 12, *, release: int = 1, task: str = "") -> Container:
    there = container(service(name), ContainerState.EXITED, identity=identity, release=release)
    return replace(there, task=task)


def test_output_is_kept_with_stream_and_time(tmp_path: Path) -> None:
    archive = LogArchive(tmp_path / "logs")
    archive.save(removed(release=3), frame("ready") + frame("cannot answer", stderr=True, second=1), 5)
    (log,) = archive.of(ENV)
    assert (log.service, log.task, log.release, log.container, log.removed_at) == ("web", "", 3, "a" * 12, 5)
    assert [(line.stderr, line.text) for line in log.lines()] == [(False, b"ready"), (True, b"cannot answer")]
    assert log.path.stat().st_mode & 0o077 == 0, "only for the user of the agent"
    assert archive.of(OTHER) == []


def test_oldest_containers_of_a_service_go_first(tmp_path: Path) -> None:
    archive = LogArchive(tmp_path)
    for number in range(MAX_CONTAINERS + 3):
        archive.save(removed(identity=f"{number:012}"), frame(str(number)), number)
        archive.save(removed("redis", identity=f"b{number:011}"), frame("b"), number)
        archive.save(removed(identity=f"c{number:011}", task="release"), frame("c"), number)
    logs = archive.of(ENV)
    assert [log.removed_at for log in logs if log.service == "web" and not log.task] == [3, 4, 5, 6, 7]
    assert len(logs) == 3 * MAX_CONTAINERS, "each service and each task has its own limit"


def test_size_is_limited_for_the_whole_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_archive, "MAX_BYTES", 1000)
    archive = LogArchive(tmp_path)
    for number in range(20):
        there = replace(removed(f"s{number}", identity=f"{number:012}"), environment=str(ENV if number % 2 else OTHER))
        archive.save(there, frame("x" * 100), number)
    kept = [*archive.of(ENV), *archive.of(OTHER)]
    assert sum(log.path.stat().st_size for log in kept) <= 1000
    assert max(log.removed_at for log in kept) == 19
    assert min(log.removed_at for log in kept) == 20 - len(kept), "the newest stay"


def test_repeated_removal_is_kept_once(tmp_path: Path) -> None:
    archive = LogArchive(tmp_path)
    archive.save(removed(), frame("first"), 1)
    archive.save(removed(), frame("first") + frame("second"), 2)
    (log,) = archive.of(ENV)
    assert [line.text for line in log.lines()] == [b"first", b"second"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"service": "web"}\n', b"\xff\n"])
def test_damaged_file_hides_no_other(tmp_path: Path, content: bytes) -> None:
    archive = LogArchive(tmp_path)
    archive.save(removed(), frame("kept"), 1)
    (log,) = archive.of(ENV)
    (log.path.parent / f"{2:020}-damaged.log").write_bytes(content)
    assert archive.of(ENV) == [log]


def test_damaged_output_shows_what_is_whole(tmp_path: Path) -> None:
    archive = LogArchive(tmp_path)
    archive.save(removed(), frame("whole") + b"\xff" * 20, 1)
    (log,) = archive.of(ENV)
    assert [line.text for line in log.lines()] == [b"whole"]


def test_environment_takes_its_output_with_it(tmp_path: Path) -> None:
    archive = LogArchive(tmp_path)
    archive.save(removed(), frame("a"), 1)
    archive.save(replace(removed(), environment=str(OTHER)), frame("b"), 1)
    archive.forget(ENV)
    assert archive.of(ENV) == []
    assert len(archive.of(OTHER)) == 1
    archive.forget(ENV)
