"""Interfaces of the container engine, as the reconcile loop needs it.

Implemented by ``docker.engine.DockerEngine`` with ``docker.client.DockerClient``, and in memory by the hollow fleet
(bench/hollow). The operators' API (logs, exec, images) needs a real Docker Engine and does not go through these
interfaces. Errors are those of ``docker.errors``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from devopsellence.nodeagent.docker.cache import ContainerCache
from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, ContainerExit

T = TypeVar("T")


class ImageApi(Protocol):
    """Calls about images."""

    def stored(self) -> Sequence[StoredImage]: ...

    def volumes(self, image: str) -> tuple[str, ...]: ...

    def in_use(self) -> frozenset[str]: ...

    def remove(self, image: StoredImage) -> None: ...


class DockerApi(Protocol):
    """Blocking calls to the engine, for the actions of a plan. Run by :class:`ContainerEngine` on its threads."""

    @property
    def images(self) -> ImageApi: ...

    def inspect(self, container: str) -> Container | None: ...

    def inspect_any(self, container: str) -> Container: ...

    def create_network(self, name: str, labels: Mapping[str, str]) -> str: ...

    def remove_network(self, network: str) -> None: ...

    def pull(
        self, repository: str, digest: str, progress: Callable[[str], None], login: tuple[str, str] | None = None
    ) -> None: ...

    def create(self, name: str, body: Mapping[str, Any]) -> str: ...

    def start(self, container: str) -> Container | None: ...

    def connect(self, network: str, container: str, alias: str) -> None: ...

    def stop(self, container: str) -> None: ...

    def update(self, container: str, body: Mapping[str, Any]) -> None: ...

    def remove(self, container: str, *, force: bool = False, anonymous: bool = False) -> None: ...

    def remove_volume(self, volume: str) -> None: ...

    def inspect_exited(self, container: str) -> tuple[Container, ContainerExit | None]: ...

    def last_lines(self, container: str) -> tuple[str, ...]: ...

    def log_tail(self, container: str) -> bytes: ...


class ContainerEngine(Protocol):
    """Async container engine: calls on threads, the cache of containers and networks, the ledger of this agent's
    containers, and the state of the connection.

    ``about``: id of the container that a call is about. ContainerHung if the engine does not answer about it.
    ``admit`` returns a container if it is this agent's, else None.
    """

    cache: ContainerCache
    owned: ContainerLedger
    connected: bool
    #: Reason for a missing connection; empty while connected.
    problem: str
    version: str

    @property
    def hung(self) -> Mapping[str, float]:
        """Containers (id) about which the engine does not answer, since when (monotonic)."""
        ...

    async def run(self) -> None: ...

    async def call(self, call: Callable[[DockerApi], T], /, *, about: str = "") -> T: ...

    async def stop(self, call: Callable[[DockerApi], T], /, *, about: str = "") -> T: ...

    async def pull(self, call: Callable[[DockerApi], T], /) -> T: ...

    async def refresh(self, container: str) -> None: ...

    async def relist(self) -> None: ...

    async def admit(self, container: Container) -> Container | None: ...
