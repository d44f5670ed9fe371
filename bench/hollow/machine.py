"""A machine in memory: an engine's containers, networks and images, which outlive whichever agent works on them.

Its methods are those of :class:`devopsellence.nodeagent.docker.interface.Calls`, with the same errors. It lives on one
event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from bench.hollow.behaviour import Behaviour, Faults
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerExit,
    ContainerState,
    EngineEvent,
    EngineListing,
    Network,
    NetworkAttachment,
)

_AWAY = "the Docker Engine does not answer: it is not running"


class HollowImages:
    """Every image by id is here; one of a registry is once it was pulled."""

    def __init__(self, machine: HollowMachine) -> None:
        self._machine = machine
        self.pulled: set[str] = set()

    def has(self, image: str) -> bool:
        return image not in self._machine.faults.missing and ("@" not in image or image in self.pulled)

    def stored(self) -> list[StoredImage]:
        return [StoredImage(f"id-of-{image}", digests=(image,)) for image in sorted(self.pulled)]

    def in_use(self) -> frozenset[str]:
        return frozenset(f"id-of-{container.image}" for container in self._machine.containers.values())

    def remove(self, image: StoredImage) -> None:
        self.pulled.difference_update(image.digests)


class HollowMachine:
    """``faults`` may be changed at any time. ``told`` hears what happens without a call: ends, and what hands do."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.containers: dict[str, Container] = {}
        self.networks: dict[str, Network] = {}
        self.told: set[Callable[[EngineEvent], None]] = set()
        #: When (monotonic) the first container of each release was made here.
        self.first_create: dict[int, float] = {}
        self._images = HollowImages(self)
        self._behaviours: dict[str, Behaviour] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._numbers = count(1)
        self._back = asyncio.Event()
        self._back.set()
        self._gone = asyncio.Event()

    # What happens to the machine.

    @property
    def away(self) -> bool:
        """The engine does not answer; its containers go on."""
        return self._gone.is_set()

    def leave(self) -> None:
        """The engine goes away."""
        self._back.clear()
        self._gone.set()

    def come_back(self) -> None:
        """The engine answers again."""
        self._gone.clear()
        self._back.set()

    async def until_back(self) -> None:
        await self._back.wait()

    async def until_gone(self) -> None:
        await self._gone.wait()

    def reboot(self) -> None:
        """All containers end with exit code 255; the engine is back at once. Its agent is somebody else's business."""
        for each in [one for one in self.containers.values() if one.up]:
            self.end(each.id, 255)

    def end(self, container: str, code: int) -> None:
        """A container ends by itself; nothing if it does not run."""
        found = self.containers.get(container)
        if found is None or not found.up:
            return
        self._end(found, code)
        self._tell("die", found)

    def discard(self, container: str) -> None:
        """Somebody removes a container by force."""
        found = self.containers.get(container)
        if found is not None:
            self._forget(found)
            self._tell("destroy", found)

    def passes(self, container: str) -> str:
        """The answer to any check: empty if it passes, else what is wrong."""
        if self.away:
            raise errors.EngineUnavailable(_AWAY)
        found = self.containers.get(container)
        if found is None or not found.up:
            return "connection refused"
        ready = self._behaviours[container].ready
        if ready is None or found.service in self.faults.sick:
            return "answered 503"
        return "" if time.monotonic() - found.running_since >= ready else "connection refused"

    # The calls of the agent.

    @property
    def images(self) -> HollowImages:
        return self._images

    def list(self) -> EngineListing:
        return EngineListing(tuple(self.containers.values()), tuple(self.networks.values()))

    def inspect(self, container: str) -> Container | None:
        return self._known(container)

    def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        if any(network.name == name for network in self.networks.values()):
            raise errors.Conflict(f"network with name {name} already exists")
        made = Network(f"net{next(self._numbers)}", name, labels.get(names.LABEL_ENVIRONMENT, ""))
        self.networks[made.id] = made
        return made.id

    def remove_network(self, network: str) -> None:
        if network not in self.networks:
            raise errors.NotFound(f"network {network} not found")
        name = self.networks[network].name
        if any(container.up and name in container.networks for container in self.containers.values()):
            raise errors.EngineError(f"network {name} has active endpoints")
        del self.networks[network]

    def pull(
        self, repository: str, digest: str, progress: Callable[[str], None], login: tuple[str, str] | None = None
    ) -> None:
        del login
        image = f"{repository}@{digest}"
        if image in self.faults.missing:
            raise errors.ImageNotAvailable(f"manifest for {image} not found")
        progress("1 of 1 layers")
        self._images.pulled.add(image)

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        if not self._images.has(body["Image"]):
            raise errors.ImageNotAvailable(f"No such image: {body['Image']}")
        if any(container.name == name for container in self.containers.values()):
            raise errors.Conflict(f'the container name "/{name}" is already in use')
        labels = body["Labels"]
        made = Container(
            id=f"{next(self._numbers):012x}",
            name=name,
            environment=labels[names.LABEL_ENVIRONMENT],
            service=labels[names.LABEL_SERVICE],
            hash=labels[names.LABEL_HASH],
            release=int(labels[names.LABEL_RELEASE]),
            image=body["Image"],
            state=ContainerState.CREATED,
            networks={network: NetworkAttachment("", "") for network in body["NetworkingConfig"]["EndpointsConfig"]},
            task=labels.get(names.LABEL_TASK, ""),
            depends_on=tuple(filter(None, labels.get(names.LABEL_DEPENDS_ON, "").split(","))),
            ports=names.parse_ports(labels[names.LABEL_PORTS]) if names.LABEL_PORTS in labels else None,
        )
        self._behaviours[made.id] = Behaviour.of(dict(each.partition("=")[::2] for each in body["Env"]))
        self.containers[made.id] = made
        self.first_create.setdefault(made.release, time.monotonic())
        return made.id

    def start(self, container: str) -> Container | None:
        found = self._known(container)
        if found.up:
            return found
        by_name = {network.name: network for network in self.networks.values()}
        if lost := next((name for name in found.networks if name not in by_name), None):
            raise errors.NetworkGone(f"network {lost} not found")
        up = replace(
            found,
            state=ContainerState.RUNNING,
            networks={name: self._attached(by_name[name]) for name in found.networks},
            running_since=time.monotonic(),
            started_at=_now(),
            finished_at="",
            exit_code=None,
        )
        self.containers[up.id] = up
        end = (0.0, 1) if up.service in self.faults.crashing and not up.task else self._behaviours[up.id].end
        if end is not None:
            self._ends[up.id] = asyncio.get_running_loop().call_later(end[0], self.end, up.id, end[1])
        return up

    def connect(self, network: str, container: str, alias: str) -> None:
        del alias
        found = self._known(container)
        if network not in self.networks:
            raise errors.NotFound(f"network {network} not found")
        place = self._attached(self.networks[network])
        self.containers[found.id] = replace(found, networks={self.networks[network].name: place})

    def stop(self, container: str) -> None:
        found = self._known(container)
        if found.up:
            self._end(found, 0)

    def remove(self, container: str, *, force: bool = False) -> None:
        found = self._known(container)
        if found.up:
            raise errors.Conflict(f"You cannot remove a running container {container}")
        self._forget(found)

    def inspect_exited(self, container: str) -> tuple[Container, ContainerExit | None]:
        found = self._known(container)
        if found.up or found.state is ContainerState.CREATED:
            return found, None
        return found, ContainerExit(found.exit_code or 0, False, found.finished_at, 0.1, ("it is hollow",))

    def _find(self, container: str) -> Container | None:
        """By id or name."""
        found = self.containers.get(container)
        return found or next((each for each in self.containers.values() if each.name == container), None)

    def _known(self, container: str) -> Container:
        found = self._find(container)
        if found is None:
            raise errors.NotFound(f"No such container: {container}")
        return found

    def _attached(self, network: Network) -> NetworkAttachment:
        number = next(self._numbers)
        return NetworkAttachment(network.id, f"172.18.{number // 250 % 250}.{2 + number % 250}")

    def _end(self, found: Container, code: int) -> None:
        self._cancel_end(found)
        places = {name: replace(place, address="") for name, place in found.networks.items()}
        self.containers[found.id] = replace(
            found, state=ContainerState.EXITED, running_since=0.0, finished_at=_now(), exit_code=code, networks=places
        )

    def _forget(self, found: Container) -> None:
        self._cancel_end(found)
        self.containers.pop(found.id, None)
        self._behaviours.pop(found.id, None)

    def _cancel_end(self, found: Container) -> None:
        with suppress(KeyError):
            self._ends.pop(found.id).cancel()

    def _tell(self, action: str, found: Container) -> None:
        attributes = {names.LABEL_ENVIRONMENT: found.environment}
        for hear in tuple(self.told):
            hear(EngineEvent("container", action, found.id, attributes, time.time()))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
