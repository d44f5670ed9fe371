"""State folder: restart histories keep their names on disk, so that an upgraded agent reads existing files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import ContainerExit, UnhealthyContainer
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause
from devopsellence.nodeagent.state import StateFolder
from tests.unit.nodeagent.planning import ENV

NOW = Now(100.0, 1_000_000.0)
HISTORY = replace(
    NO_HISTORY,
    starts=4,
    last_start="c1@s1",
    crashes=3,
    failure=FailureCause.CRASHED,
    reason="ended with exit code 3",
    retry=130.0,
    retry_wall=1_000_030.0,
    ready_container="c1",
    stopped_container="c0",
    counted_exit="c1@t1",
    lapses=2,
    replaced_container="c2",
    last_end=ContainerExit(3, False, "2026-01-01T00:00:00Z", 0.5, ("last line",)),
    lasted=True,
    seen_unhealthy="c1@s1",
    last_unhealthy=UnhealthyContainer("c1", "not healthy", 1_000_010.0, ("cannot answer",)),
    hint="its volume belongs to root",
)
STORED = {
    "starts": 4,
    "begun": "c1@s1",
    "crashes": 3,
    "unstable": 0,
    "refusals": 0,
    "unhealthy": 0,
    "trouble": "crashed",
    "reason": "ended with exit code 3",
    "retry": 130.0,
    "retry_wall": 1_000_030.0,
    "image_missing": False,
    "proved": "c1",
    "stopped": "c0",
    "examined": "c1@t1",
    "lapses": 2,
    "discarded": "c2",
    "last_end": {
        "code": 3,
        "oom_killed": False,
        "finished_at": "2026-01-01T00:00:00Z",
        "ran": 0.5,
        "log_lines": ["last line"],
    },
    "lasted": True,
    "seen_unhealthy": "c1@s1",
    "last_unhealthy": {
        "container": "c1",
        "reason": "not healthy",
        "at": 1_000_010.0,
        "log_lines": ["cannot answer"],
    },
    "hint": "its volume belongs to root",
}
ADDED_AFTER_0_1 = {"seen_unhealthy", "last_unhealthy", "lasted", "hint"}


def test_restart_history_keeps_its_names_on_disk(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        folder.save_restart_histories(ENV, {("web", "hash"): HISTORY})
        (file,) = (tmp_path / "memory").iterdir()
        assert json.loads(file.read_bytes()) == [{"service": "web", "hash": "hash", "memory": STORED}]
        assert folder.restart_histories(ENV, NOW) == {("web", "hash"): HISTORY}


def test_restart_history_of_version_0_1_is_read(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        written = {name: value for name, value in STORED.items() if name not in ADDED_AFTER_0_1}
        stored = [{"service": "web", "hash": "hash", "memory": written}]
        (tmp_path / "memory" / f"{str(ENV).replace('/', '+')}.json").write_text(json.dumps(stored))
        expected = replace(HISTORY, seen_unhealthy="", last_unhealthy=None, lasted=False, hint="")
        assert folder.restart_histories(ENV, NOW) == {("web", "hash"): expected}


def test_restart_history_of_a_later_version_is_read(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        stored = [{"service": "web", "hash": "hash", "memory": STORED | {"added_later": 1}}]
        (tmp_path / "memory" / f"{str(ENV).replace('/', '+')}.json").write_text(json.dumps(stored))
        assert folder.restart_histories(ENV, NOW) == {("web", "hash"): HISTORY}
