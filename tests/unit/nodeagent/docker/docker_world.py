"""Engine in memory for creations: names, labels, images, lost answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.cache import ContainerCache
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.docker.ownership import foreign_container
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool


class CutOffError(Exception):
    """The agent was killed."""


class DockerWorld:
    """Containers by id; outlives the agents. ``images``: labels by image id."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.images: dict[str, Mapping[str, str]] = {"image": {}}
        self._numbers = count(1)

    def add(self, name: str, labels: Mapping[str, str], image: str = "image") -> str:
        if self.find(name) is not None:
            raise errors.Conflict(f"{name} is in use")
        identity = f"id-{next(self._numbers)}"
        self.containers[identity] = Container(
            identity, name, labels.get(names.LABEL_ENVIRONMENT, ""), labels.get(names.LABEL_SERVICE, ""),
            labels.get(names.LABEL_HASH, ""), 1, image, ContainerState.CREATED, image_id=image, labels=labels,
        )  # fmt: skip
        return identity

    def find(self, name: str) -> Container | None:
        return next((container for container in self.containers.values() if container.name == name), None)

    # Calls of the agent.

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        return self.add(name, body["Labels"])

    def inspect_any(self, name: str) -> Container:
        """Return a container by id or name."""
        found = self.containers.get(name) or self.find(name)
        if found is None:
            raise errors.NotFound(name)
        return found


class _StepFiles(StateFiles):
    """Files of which each write is a step."""

    def __init__(self, root: Path, step: Callable[[], None]) -> None:
        super().__init__(root)
        self._step = step

    def write(self, path: Path, content: bytes, *, sync: bool, keep_trying: bool = True) -> None:
        self._step()
        super().write(path, content, sync=sync, keep_trying=keep_trying)


class WorldEngine:
    """Engine of one agent on a world. ``cut``: number of the disk write or call before which the agent is killed."""

    def __init__(self, world: DockerWorld, path: Path, cut: int | None = None) -> None:
        self.cache = ContainerCache()
        self.world = world
        self.steps = 0
        #: Containers (id) about which the engine does not answer.
        self.hung: set[str] = set()
        self._cut = cut
        self.owned = ContainerLedger(path, ThreadPool(1, "disk"), _StepFiles(path.parent, self.step))

    def step(self) -> None:
        if self.steps == self._cut:
            raise CutOffError
        self.steps += 1

    async def call(self, call: Callable[[Any], Any], /, *, about: str = "") -> Any:
        self.step()
        if about in self.hung:
            raise errors.ContainerHung(about)
        answer = call(self.world)
        # The engine has done it, and the agent may not learn of it.
        self.step()
        return answer

    async def admit(self, container: Container) -> Container | None:
        own = self.owned.admit([container], self.world.images)
        return replace(container, labels={}) if own else None

    def list(self) -> None:
        """List everything, as after a connection to the engine."""
        containers = [*self.world.containers.values()]
        own = self.owned.admit(containers, self.world.images)
        self.owned.prune(self.owned.ids & self.world.containers.keys(), [container.name for container in containers])
        for container in containers:
            if container.id in own:
                self.cache.put(container)
            else:
                self.cache.put_foreign(foreign_container(container))
