"""Creation of containers: cut anywhere, with names taken by others, with a disk that fails."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from devopsellence.nodeagent import state_files
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.creation import create_container
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.docker.docker_world import CutOffError, DockerWorld, WorldEngine
from tests.unit.nodeagent.planning import ENV, UID

HASH = "f" * 64
LABELS = {
    names.LABEL_NODE_UID: UID,
    names.LABEL_ENVIRONMENT: str(ENV),
    names.LABEL_SERVICE: "web",
    names.LABEL_HASH: HASH,
}
NAME = names.container_name(UID, ENV, "web", HASH)
BODY: dict[str, Any] = {"Image": "image", "Labels": LABELS}


async def create(engine: WorldEngine) -> str:
    created = await create_container(engine, NAME, lambda: BODY, (str(ENV), "web"))  # type: ignore[arg-type]
    await engine.owned.flush()
    return created.id


async def create_if_missing(engine: WorldEngine) -> None:
    """Do what the next agent does: list, and create what is missing."""
    await engine.owned.load()
    engine.list()
    if not engine.cache.containers:
        await create(engine)
        engine.list()
    await engine.owned.flush()


def taken(world: DockerWorld) -> set[str]:
    return {world.add(NAME, {})}


def copied(world: DockerWorld) -> set[str]:
    world.images["copy"] = {**LABELS, names.LABEL_NONCE: "0"}
    labels = world.images["copy"]
    return {world.add(NAME, labels, "copy"), world.add("web-try", labels, "copy")}


def of_0_1(world: DockerWorld) -> set[str]:
    world.add(NAME, LABELS)
    return {world.add("web-try", LABELS)}


def of_a_lost_ledger(world: DockerWorld) -> set[str]:
    world.add(f"{NAME}-2", {**LABELS, names.LABEL_NONCE: "0"})
    return copied(world)


#: Containers at the start, by what there is; each returns those of somebody else.
STARTS = {
    "nothing else": lambda _world: set(),
    "the name is taken": taken,
    "copies": copied,
    "a container of 0.1": of_0_1,
    "a lost ledger": of_a_lost_ledger,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
async def test_creation_cut_anywhere_leads_to_one_own_container(tmp_path: Path, start: Any) -> None:
    for cut in range(20):
        world, path = DockerWorld(), tmp_path / f"{cut}.json"
        others = start(world)
        first, cut_off = WorldEngine(world, path, cut), False
        try:
            await create_if_missing(first)
        except CutOffError:
            cut_off = True
        second = WorldEngine(world, path)
        await create_if_missing(second)
        (own,) = second.cache.containers.values()
        assert set(world.containers) - others == {own.id}, f"cut before step {cut}"
        assert set(second.cache.foreign) == others
        # Known by its id from now on, whatever its name.
        third = WorldEngine(world, path)
        await third.owned.load()
        assert third.owned.knows(own.id)
        if not cut_off and first.steps < cut:
            return
    pytest.fail("more steps than expected")


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]", b'{"containers": [{"name": 1}]}', b"\xff"])
async def test_lost_or_damaged_ledger_adopts_own_containers_only(tmp_path: Path, damage: bytes | None) -> None:
    world, path = DockerWorld(), tmp_path / "containers.json"
    own = await create(WorldEngine(world, path))
    world.images["copy"] = world.containers[own].labels
    copy = world.add("web-try", world.images["copy"], "copy")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    engine = WorldEngine(world, path)
    await create_if_missing(engine)
    assert (set(engine.cache.containers), set(engine.cache.foreign)) == ({own}, {copy})
    assert [entry["id"] for entry in json.loads(path.read_bytes())["containers"]] == [own]


async def test_taken_names_are_passed_over_and_named(tmp_path: Path) -> None:
    world = DockerWorld()
    engine = WorldEngine(world, tmp_path / "containers.json")
    world.add(NAME, {})
    own = world.containers[await create(engine)]
    assert own.name == f"{NAME}-2"
    (foreign,) = engine.cache.foreign_of(str(ENV))
    assert (foreign.name, foreign.service, foreign.takes_name) == (NAME, "web", True)


async def test_creation_with_all_names_taken_is_refused_with_a_remedy(tmp_path: Path) -> None:
    world = DockerWorld()
    for name in names.alternatives(NAME):
        world.add(name, {})
    with pytest.raises(errors.NamesInUse, match=f"docker rename {NAME} "):
        await create(WorldEngine(world, tmp_path / "containers.json"))


async def test_container_removed_by_hand_and_replaced_by_a_copy_is_created_again(tmp_path: Path) -> None:
    world, path = DockerWorld(), tmp_path / "containers.json"
    engine = WorldEngine(world, path)
    first = await create(engine)
    labels = world.containers.pop(first).labels
    engine.owned.gone(first)
    engine.cache.remove(first)
    # As tools do that recreate a container: the same name, the same labels, also at the next start of the agent.
    copy = world.add(NAME, labels)
    for agent in (engine, WorldEngine(world, path)):
        await agent.owned.load()
        agent.list()
        assert set(agent.cache.foreign) == {copy}
    second = await create(engine)
    assert world.containers[second].name == f"{NAME}-2"
    assert world.containers[second].labels[names.LABEL_NONCE] != labels[names.LABEL_NONCE]


async def test_creation_waits_for_the_nonce_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes, *, sync: bool) -> None:
        del sync
        raise OSError(errno.ENOSPC, "No space left on device")

    world, path, files = DockerWorld(), tmp_path / "containers.json", StateFiles(tmp_path)
    engine = WorldEngine(world, path)
    engine.owned = ContainerLedger(path, ThreadPool(1, "disk"), files)
    with monkeypatch.context() as patched:
        patched.setattr(state_files, "replace_file", full)
        with pytest.raises(errors.LedgerNotWritten) as raised:
            await create(engine)
        # As the heartbeat says it.
        assert str(raised.value) == files.problem
        assert files.problem.endswith("(containers.json: No space left on device): free space on its disk")
        assert not files.retry()
    assert world.containers == {}
    # Repeated by whoever keeps the folder, who knows nothing of the content.
    assert files.retry()
    (pending,) = json.loads(path.read_bytes())["containers"]
    own = await create(engine)
    assert world.containers[own].labels[names.LABEL_NONCE] == pending["nonce"]


async def test_ledger_removed_beside_a_running_agent_is_written_again(tmp_path: Path) -> None:
    path, files = tmp_path / "containers.json", StateFiles(tmp_path)
    engine = WorldEngine(DockerWorld(), path)
    for step in ("written", "read"):
        engine.owned = ContainerLedger(path, ThreadPool(1, "disk"), files)
        await engine.owned.load()
        if step == "written":
            await create(engine)
        whole = path.read_bytes()
        path.unlink()
        assert files.check() == [path]
        assert path.read_bytes() == whole


async def test_hung_container_that_has_the_name_is_asked_for_by_its_id(tmp_path: Path) -> None:
    world = DockerWorld()
    engine = WorldEngine(world, tmp_path / "containers.json")
    own = await create(engine)
    engine.list()
    engine.hung = {own}
    with pytest.raises(errors.ContainerHung, match=own):
        await create(engine)
    engine.hung = set()
    assert await create(engine) == own


async def test_name_released_during_the_creation_is_not_taken_for_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_world: DockerWorld, name: str) -> Container:
        world.containers.clear()
        raise errors.NotFound(name)

    world = DockerWorld()
    engine = WorldEngine(world, tmp_path / "containers.json")
    world.add(NAME, {})
    with monkeypatch.context() as patched:
        patched.setattr(DockerWorld, "inspect_any", gone)
        with pytest.raises(errors.NotFound):
            await create(engine)
    assert world.containers[await create(engine)].name == NAME
    assert engine.cache.foreign == {}


async def test_removed_containers_are_forgotten(tmp_path: Path) -> None:
    world, path = DockerWorld(), tmp_path / "containers.json"
    engine = WorldEngine(world, path)
    own = await create(engine)
    engine.owned.forget(own)
    await engine.owned.flush()
    assert json.loads(path.read_bytes())["containers"] == []
    # One that was removed by hand while no agent ran is forgotten at the start.
    gone = await create(WorldEngine(DockerWorld(), path))
    later = WorldEngine(DockerWorld(), path)
    await later.owned.load()
    assert later.owned.knows(gone)
    later.list()
    await later.owned.flush()
    assert json.loads(path.read_bytes())["containers"] == []
