"""Machine in memory: containers, networks and images of an engine; outlives the agents.

Methods are those of :class:`devopsellence.nodeagent.docker.interface.Calls`, with the same errors. Bound to one
event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from bench.hollow.behaviour import Behaviour, Faults
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerExit,
    ContainerSettings,
    ContainerState,
    EngineEvent,
    EngineListing,
    Network,
    NetworkAttachment,
)

_AWAY = "the Docker Engine does not answer: it is not running"


class HollowImages:
    """Images of the machine: all image ids are present, registry images after a pull."""

    def __init__(self, machine: HollowMachine) -> None:
        self._machine = machine
        self.pulled: set[str] = set()

    def has(self, image: str) -> bool:
        return image not in self._machine.faults.missing and ("@" not in image or image in self.pulled)

    def stored(self) -> list[StoredImage]:
        return [StoredImage(f"id-of-{image}", digests=(image,)) for image in sorted(self.pulled)]

    def volumes(self, image: str) -> tuple[str, ...]:
        if not self.has(image):
            raise errors.ImageNotAvailable(f"No such image: {image}")
        return ()

    def in_use(self) -> frozenset[str]:
        return frozenset(f"id-of-{container.image}" for container in self._machine.containers.values())

    def remove(self, image: StoredImage) -> None:
        self.pulled.difference_update(image.digests)


class HollowMachine:
    """Hollow machine. ``faults`` may be changed at any time. ``told`` receives events not caused by a call."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.containers: dict[str, Container] = {}
        self.networks: dict[str, Network] = {}
        self.told: set[Callable[[EngineEvent], None]] = set()
        #: Time (monotonic) of the first container, by release.
        self.first_create: dict[int, float] = {}
        self._images = HollowImages(self)
        self._behaviours: dict[str, Behaviour] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._numbers = count(1)
        self._hung: dict[str, asyncio.Event] = {}
        #: Labels of images, by id; an image that is not here has none.
        self._labels: dict[str, Mapping[str, str]] = {}
        self._back = asyncio.Event()
        self._back.set()
        self._gone = asyncio.Event()

    # Events of the machine.

    @property
    def away(self) -> bool:
        """Return True while the engine is unreachable; containers keep running."""
        return self._gone.is_set()

    def leave(self) -> None:
        """Make the engine unreachable."""
        self._back.clear()
        self._gone.set()

    def come_back(self) -> None:
        """Make the engine reachable again."""
        self._gone.clear()
        self._back.set()

    async def until_back(self) -> None:
        await self._back.wait()

    async def until_gone(self) -> None:
        await self._gone.wait()

    def reboot(self) -> None:
        """End all containers with exit code 255; the engine is back at once. Does not affect the agent."""
        for container in [container for container in self.containers.values() if container.up]:
            self.end(container.id, 255)

    def end(self, container: str, code: int) -> None:
        """End a running container by itself."""
        existing = self.containers.get(container)
        if existing is None or not existing.up:
            return
        self._end(existing, code)
        self._tell("die", existing)
        if existing.settings is not None and existing.settings.engine_restarts:
            self.start(existing.id)
            self._tell("start", existing)

    def discard(self, container: str) -> None:
        """Remove a container by force, as by hand."""
        existing = self.containers.get(container)
        if existing is not None:
            self._forget(existing)
            self._tell("destroy", existing)

    def hang(self, container: str) -> None:
        """Answer nothing about a container until :meth:`answer`."""
        self._hung[container] = asyncio.Event()

    def answer(self, container: str) -> None:
        """Answer about a hung container again."""
        self._hung.pop(container).set()

    async def until_answers(self, container: str) -> None:
        """Wait while a container hangs."""
        if container in self._hung:
            await self._hung[container].wait()

    def pause(self, container: str) -> None:
        """Pause a running container, as by hand."""
        self._by_hand("pause", container, ContainerState.RUNNING, ContainerState.PAUSED)

    def unpause(self, container: str) -> None:
        """Let a paused container continue, as by hand."""
        self._by_hand("unpause", container, ContainerState.PAUSED, ContainerState.RUNNING)

    def restart_always(self, container: str) -> None:
        """Let the engine restart a container by itself, as ``docker update --restart=always`` does."""
        if container in self.containers:
            settings = ContainerSettings(engine_restarts=True)
            self.containers[container] = replace(self.containers[container], settings=settings)
            self._tell("update", self.containers[container])

    def rename(self, container: str, name: str) -> None:
        """Rename a container, as by hand."""
        if container in self.containers:
            self.containers[container] = replace(self.containers[container], name=name)
            self._tell("rename", self.containers[container])

    def commit(self, container: str) -> str:
        """Make an image of a container and run it, as ``docker commit`` and ``docker run`` do; return the copy's id."""
        copied, number = self.containers[container], next(self._numbers)
        image = f"image-{number}"
        self._labels[image] = copied.labels
        copy = replace(
            copied,
            id=f"{number:012x}",
            name=f"copy_{number}",
            image=image,
            image_id=image,
            state=ContainerState.CREATED,
            networks={},
            settings=None,
        )
        self.containers[copy.id] = copy
        self._behaviours[copy.id] = self._behaviours[container]
        self._tell("create", copy)
        self.start(copy.id)
        self._tell("start", copy)
        return copy.id

    def disconnect(self, network: str) -> None:
        """Disconnect all running containers from a network, as by hand."""
        for existing in list(self.containers.values()):
            if existing.up and self.networks[network].name in existing.networks:
                self.containers[existing.id] = replace(existing, networks={})
                self._tell_network("disconnect", network, existing.id)

    def discard_network(self, network: str) -> None:
        """Disconnect all containers from a network and remove it, as by hand."""
        self.disconnect(network)
        del self.networks[network]
        self._tell_network("destroy", network)

    def passes(self, container: str) -> str:
        """Return the result of a probe: "" for success, else the problem."""
        if self.away:
            raise errors.EngineUnavailable(_AWAY)
        existing = self.containers.get(container)
        if existing is None or not existing.up:
            return "connection refused"
        ready = self._behaviours[container].ready
        if ready is None or existing.service in self.faults.sick:
            return "answered 503"
        return "" if time.monotonic() - existing.running_since >= ready else "connection refused"

    # Calls of the agent.

    @property
    def images(self) -> HollowImages:
        return self._images

    def list(self) -> EngineListing:
        return EngineListing(tuple(self.containers.values()), tuple(self.networks.values()))

    def inspect(self, container: str) -> Container | None:
        return self._known(container)

    def inspect_any(self, container: str) -> Container:
        return self._known(container)

    def image_labels(self, image: str) -> Mapping[str, str]:
        """Return the labels of an image, by id."""
        return self._labels.get(image, {})

    def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        if any(network.name == name for network in self.networks.values()):
            raise errors.Conflict(f"network with name {name} already exists")
        created = Network(f"net{next(self._numbers)}", name, labels.get(names.LABEL_ENVIRONMENT, ""))
        self.networks[created.id] = created
        return created.id

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
        created = Container(
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
            image_id=f"id-of-{body['Image']}",
            labels=names.own_labels(labels),
        )
        self._behaviours[created.id] = Behaviour.of(dict(variable.partition("=")[::2] for variable in body["Env"]))
        self.containers[created.id] = created
        self.first_create.setdefault(created.release, time.monotonic())
        return created.id

    def start(self, container: str) -> Container | None:
        existing = self._known(container)
        if existing.up:
            return existing
        by_name = {network.name: network for network in self.networks.values()}
        if lost := next((name for name in existing.networks if name not in by_name), None):
            raise errors.NetworkGone(f"network {lost} not found")
        up = replace(
            existing,
            state=ContainerState.RUNNING,
            networks={name: self._attached(by_name[name]) for name in existing.networks},
            running_since=time.monotonic(),
            started_at=self._now(),
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
        existing = self._known(container)
        if network not in self.networks:
            raise errors.NotFound(f"network {network} not found")
        attachment = self._attached(self.networks[network])
        self.containers[existing.id] = replace(existing, networks={self.networks[network].name: attachment})

    def stop(self, container: str) -> None:
        existing = self._known(container)
        if existing.up:
            self._end(existing, 0)

    def update(self, container: str, body: Mapping[str, Any]) -> None:
        del body
        self.containers[container] = replace(self._known(container), settings=ContainerSettings())

    def remove_volume(self, volume: str) -> None:
        raise errors.NotFound(f"no such volume: {volume}")

    def remove(self, container: str, *, force: bool = False, anonymous: bool = False) -> None:
        existing = self._known(container)
        if existing.up:
            raise errors.Conflict(f"You cannot remove a running container {container}")
        self._forget(existing)

    def inspect_exited(self, container: str) -> tuple[Container, ContainerExit | None]:
        existing = self._known(container)
        if existing.up or existing.state is ContainerState.CREATED:
            return existing, None
        return existing, ContainerExit(existing.exit_code or 0, False, existing.finished_at, 0.1, ("it is hollow",))

    def last_lines(self, container: str) -> tuple[str, ...]:
        self._known(container)
        return ("it is hollow",)

    def volume_hint(self, container: str) -> str:
        self._known(container)
        return ""

    def log_tail(self, container: str) -> bytes:
        self._known(container)
        return b""

    def _find(self, container: str) -> Container | None:
        """Find a container by id or name."""
        existing = self.containers.get(container)
        return existing or next((other for other in self.containers.values() if other.name == container), None)

    def _known(self, container: str) -> Container:
        existing = self._find(container)
        if existing is None:
            raise errors.NotFound(f"No such container: {container}")
        return existing

    def _attached(self, network: Network) -> NetworkAttachment:
        number = next(self._numbers)
        return NetworkAttachment(network.id, f"172.18.{number // 250 % 250}.{2 + number % 250}")

    def _end(self, container: Container, code: int) -> None:
        self._cancel_end(container)
        attachments = {name: replace(attachment, address="") for name, attachment in container.networks.items()}
        self.containers[container.id] = replace(
            container,
            state=ContainerState.EXITED,
            running_since=0.0,
            finished_at=self._now(),
            exit_code=code,
            networks=attachments,
        )

    def _forget(self, container: Container) -> None:
        self._cancel_end(container)
        self.containers.pop(container.id, None)
        self._behaviours.pop(container.id, None)

    def _cancel_end(self, container: Container) -> None:
        with suppress(KeyError):
            self._ends.pop(container.id).cancel()

    def _by_hand(self, action: str, container: str, before: ContainerState, after: ContainerState) -> None:
        existing = self.containers.get(container)
        if existing is not None and existing.state is before:
            self.containers[container] = replace(existing, state=after)
            self._tell(action, existing)

    def _tell_network(self, action: str, network: str, container: str = "") -> None:
        for hear in tuple(self.told):
            hear(EngineEvent("network", action, network, {"container": container}, time.monotonic()))

    def _tell(self, action: str, container: Container) -> None:
        attributes = {names.LABEL_ENVIRONMENT: container.environment}
        for hear in tuple(self.told):
            hear(EngineEvent("container", action, container.id, attributes, time.monotonic()))

    def _now(self) -> str:
        now = datetime.now(UTC) + timedelta(seconds=self.faults.clock_seconds)
        return now.isoformat().replace("+00:00", "Z")
