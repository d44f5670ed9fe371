"""Every file of the agent's folder, damaged in every way: named, the rest is read, and it is written again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.ownership import OwnedContainer
from devopsellence.nodeagent.envoy.files import EnvoyFolder, snapshot_to_bytes
from devopsellence.nodeagent.envoy.model import RoutingConfig
from devopsellence.nodeagent.identity import IDENTITY_FILE, load_identity
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.images.ledger import ImageLedger
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.task_run import TaskRun
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV
from tests.unit.nodeagent.test_state_files import DAMAGES, read_only, removed

NOW = Now(100.0, 1_000_000.0)
HASH = "0123456789abcdef"
ASSIGNMENT = stored_pb2.Assignment(
    node="n1",
    node_uid="u",
    organization=ENV.organization,
    project=ENV.project,
    environment=ENV.environment,
    generation=3,
)
PART = stored_pb2.NodeIngress(
    node="n1",
    node_uid="u",
    organization=ENV.organization,
    project=ENV.project,
    environment=ENV.environment,
    part="a.example",
)
RUN = TaskRun(1, "migrate", HASH).starting("c1")
HISTORIES = {("web", HASH): NO_HISTORY.started(None)}
LEDGER = ImageLedger(left=frozenset({"sha256:1"}))
CONFIG = RoutingConfig(ENV, ("a.example",), (), ())
ENVOY = {"lds.json": b'{"resources": []}', "cds.json": b"{}", "rds/http.json": b"{}", "eds/web.json": b"{}"}
#: Files whose loss matters to no reader: they are compared with what they should be, and written again.
WRITTEN_ONLY = ("status/", "envoy/config/", "envoy/run/", "envoy/mounted.json", "lock")


@dataclass
class Folder:
    """The folder as an agent finds it when it starts: what it reads, and what it says about the rest."""

    path: Path
    read: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    def write(self) -> None:
        """Write every file of the folder that there can be, as an agent does."""
        with StateFolder(self.path) as state:
            load_identity(self.path, state.files)
            state.save_assignment(ENV, ASSIGNMENT)
            state.save_restart_histories(ENV, HISTORIES)
            state.save_status(ENV, b"{}")
            state.save_task_runs(ENV, [RUN])
            state.save_part(ENV, PART.part, PART)
            self._ledger(state)._file.save(LEDGER)
            asyncio.run(_written(self._containers(state)))
            envoy = self._envoy(state)
            envoy.create()
            envoy.write({ENV: snapshot_to_bytes(ENV, CONFIG, {}, NOW)}, ENVOY, [80, 443])
            envoy.create_run_folder(HASH, b"{}")
            envoy.note_mounted("", HASH)

    def load(self) -> None:
        """Read everything, as an agent does when it starts."""
        with capture_logs() as logs:
            try:
                with StateFolder(self.path) as state:
                    self._load(state)
            except StateError as error:
                # The agent does not start, and says so.
                self.said += str(error)
        self.said += "\n".join(str(entry) for entry in logs)

    def _load(self, state: StateFolder) -> None:
        self.read["assignments"] = state.assignments()
        self.read["memory"] = state.restart_histories(ENV, NOW)
        self.read["ingress"] = state.parts()
        try:
            self.read["tasks"] = state.task_runs(ENV)
        except StateError as error:
            # The release task does not run, and its status says so.
            self.said += str(error)
        envoy = self._envoy(state)
        envoy.create()
        self.read["envoy/kept"] = envoy.load(NOW)
        self.read["envoy/ports"] = envoy.last_ports()
        collector = self._ledger(state)
        asyncio.run(_loaded(collector))
        self.read["images"] = collector._ledger
        containers = self._containers(state)
        asyncio.run(containers.load())
        self.read["containers"] = containers.ids
        self.read["identity"] = load_identity(self.path, state.files).recipient

    def _envoy(self, state: StateFolder) -> EnvoyFolder:
        return EnvoyFolder(self.path / "envoy", state.files)

    def _ledger(self, state: StateFolder) -> ImageCollector:
        disk = ThreadPool(1, "disk")
        return ImageCollector(cast("Any", None), self.path / "images.json", disk, files=state.files)

    def _containers(self, state: StateFolder) -> ContainerLedger:
        return ContainerLedger(self.path / "containers.json", ThreadPool(1, "disk"), state.files)

    def files(self) -> dict[str, bytes]:
        """Return the content of all files by path, without what was set aside."""
        found = (path for path in self.path.rglob("*") if path.is_file() and ".damaged" not in str(path))
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}


async def _loaded(collector: ImageCollector) -> None:
    await collector.load()
    collector.close()


async def _written(containers: ContainerLedger) -> None:
    await containers.load()
    containers._change([OwnedContainer("web", "nonce", "c1")])
    await containers.flush()


def _names() -> list[str]:
    """Return the paths of all files of the folder; a test holds them against what is written."""
    env, part = str(ENV).replace("/", "+"), "ingress"
    return [
        "lock",
        IDENTITY_FILE,
        "images.json",
        "containers.json",
        *(f"{kind}/{env}.json" for kind in ("assignments", "memory", "status", "tasks", "envoy/kept")),
        part,
        "envoy/ports.json",
        "envoy/mounted.json",
        *(f"envoy/config/{name}" for name in ENVOY),
        f"envoy/run/{HASH}/bootstrap.json",
    ]


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file; that of the ingress part has a hash in its name."""
    return next((folder / name).glob("*.json")) if name == "ingress" else folder / name


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("whole") / "state")
    folder.write()
    return folder.path


@pytest.fixture
def folder(whole_folder: Path) -> Iterator[Folder]:
    # In memory where there is such a file system: hundreds of folders, each file synced.
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        shutil.copytree(whole_folder, Path(place) / "state")
        yield Folder(Path(place) / "state")


def test_table_has_every_file_of_the_folder(folder: Folder) -> None:
    assert {_find(folder.path, name) for name in _names()} == {folder.path / name for name in folder.files()}


@pytest.mark.parametrize("name", _names())
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_file_is_named_and_the_rest_is_read(folder: Folder, name: str, damage: Callable[[Path], None]) -> None:
    folder.load()
    assert folder.said == ""
    before, whole = folder.read, folder.files()
    folder.read, path = {}, _find(folder.path, name)
    damage(path)

    folder.load()
    kind = name.removesuffix(".json").removesuffix(".age").removesuffix(f"/{str(ENV).replace('/', '+')}")
    if name != IDENTITY_FILE or damage is read_only:
        others = before.keys() - {kind}
        assert {other: folder.read.get(other) for other in others} == {other: before[other] for other in others}
    intact = folder.read.get(kind) == before.get(kind)
    harmless = damage is removed or name.startswith(WRITTEN_ONLY)
    assert intact or harmless or str(path) in folder.said

    if name == IDENTITY_FILE and damage is not removed:
        # The identity alone cannot be made again: what is there is left as it is.
        return
    # What cannot be made again is not touched before somebody has looked.
    if kind == "tasks" and not intact and damage is not removed:
        assert "tasks" not in folder.read
        return
    folder.write()
    after = folder.files()
    after.pop("other", None)
    # Its content is of no meaning.
    whole.pop("lock")
    assert whole.keys() <= after.keys()
    assert name == IDENTITY_FILE or {part: after[part] for part in whole if part != "envoy/mounted.json"} == {
        part: whole[part] for part in whole if part != "envoy/mounted.json"
    }


@pytest.mark.parametrize("name", [name for name in _names() if name != "lock"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_beside_a_running_agent_is_repaired(folder: Folder, name: str, damage: Callable[[Path], None]) -> None:
    with StateFolder(folder.path) as state:
        folder._load(state)
        for content in folder.files().items():
            state.files.adopt(folder.path / content[0], content[1])
        whole = folder.files()
        damage(_find(folder.path, name))
        state.files.check()
        assert {part: content for part, content in folder.files().items() if part in whole} == whole


@pytest.mark.parametrize("kind", ["assignments", "memory", "status", "ingress", "envoy", "envoy/config", "envoy/run"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_thing_in_place_of_a_folder_is_set_aside(folder: Folder, kind: str, damage: Callable[[Path], None]) -> None:
    place = folder.path / kind
    place.rename(place.with_name("moved.damaged"))
    place.write_bytes(b"something")
    damage(place)
    folder.load()
    assert "tasks" in folder.read
    folder.write()
    folder.said = ""
    folder.load()
    assert folder.said == ""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_thing_in_place_of_the_records_of_release_tasks_is_left_and_named(
    folder: Folder, damage: Callable[[Path], None]
) -> None:
    place = folder.path / "tasks"
    place.rename(place.with_name("moved"))
    place.write_bytes(b"something")
    damage(place)
    with StateFolder(folder.path) as state:
        if place.is_dir() or damage is removed:
            assert state.task_runs(ENV) == ()
            return
        with pytest.raises(StateError, match=str(place)):
            state.task_runs(ENV)


def test_unreadable_assignment_has_a_sentence(folder: Folder) -> None:
    path = folder.path / "assignments" / f"{str(ENV).replace('/', '+')}.json"
    path.write_bytes(b"")
    with StateFolder(folder.path) as state:
        assert state.assignments() == {}
        assert str(path) in state.unreadable_assignments[ENV]
