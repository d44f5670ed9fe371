"""Engine: containers of a listing, some of them hung, some of somebody else."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.docker.errors import ContainerHung
from devopsellence.nodeagent.docker.model import Container, EngineListing
from tests.unit.nodeagent.planning import ENV, UID, container, service


def labelled(identity: str, labels: Mapping[str, str]) -> Container:
    """Return a running container with the labels of a service's, and the name that fits them."""
    there = container(service(), identity=identity)
    own = {
        names.LABEL_NODE_UID: UID,
        names.LABEL_ENVIRONMENT: str(ENV),
        names.LABEL_SERVICE: there.service,
        names.LABEL_HASH: there.hash,
        **labels,
    }
    name = names.container_name(UID, ENV, there.service, there.hash)
    return replace(there, name=name, image_id="image", labels=own)


class HungDocker:
    """Docker that lists its containers, and answers an inspection only when ``answers`` is set."""

    def __init__(self, *containers: Container) -> None:
        self.containers = {container.id: container for container in containers}
        self.answers = threading.Event()
        self.images = SimpleNamespace(labels=lambda _image: {})

    def list(self) -> EngineListing:
        return EngineListing(tuple(self.containers.values()), ())

    def existing(self, containers: Collection[str]) -> frozenset[str]:
        return frozenset(containers) & self.containers.keys()

    def inspect(self, container: str) -> Container:
        self.answers.wait()
        return replace(self.containers[container], exit_code=7)

    def ping(self) -> None:
        pass


@pytest.fixture
def docker() -> Iterator[HungDocker]:
    docker = HungDocker(labelled("c1", {names.LABEL_NONCE: "nonce"}))
    yield docker
    docker.answers.set()


def connected(docker: HungDocker, answered: list[str]) -> DockerEngine:
    callbacks = EngineCallbacks(answered.append, lambda: None, lambda: None)
    engine = DockerEngine("unix:///nowhere", UID, callbacks)
    engine._docker = cast("Any", docker)
    engine.connected = True
    return engine


@pytest.mark.parametrize("in_ledger", [True, False], ids=["in the ledger", "adopted"])
async def test_hung_container_is_ours_from_the_list_alone(docker: HungDocker, *, in_ledger: bool) -> None:
    engine = connected(docker, [])
    if in_ledger:
        nonce = await engine.owned.nonce("an old name")
        engine.owned.created(nonce, "c1")
    _, inspected = await engine._list(fresh=True)
    await engine._refresh_all(inspected, 0.0)
    assert engine.cache.containers == {"c1": replace(docker.containers["c1"], labels={})}
    assert engine.cache.foreign == {}
    assert list(engine.hung) == ["c1"]
    with pytest.raises(ContainerHung):
        await engine.refresh("c1")
    docker.answers.set()
    await engine._hung._checks["c1"]
    assert engine.cache.containers["c1"].exit_code == 7
    assert engine.hung == {}


async def test_hung_container_of_somebody_else_is_left_alone(docker: HungDocker) -> None:
    docker.containers["c1"] = replace(docker.containers["c1"], name="web-try")
    engine = connected(docker, [])
    _, inspected = await engine._list(fresh=True)
    assert inspected == []
    assert (list(engine.cache.containers), list(engine.cache.foreign)) == ([], ["c1"])
