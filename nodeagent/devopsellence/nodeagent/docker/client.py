"""Blocking client of the Docker Engine: the SDK, with the agent's own types and errors.

Methods block and belong on a thread (see ``docker.engine``); calls from several threads at once are safe. Methods raise
only the errors of ``docker.errors`` and return only the types of ``docker.model``.
"""

from __future__ import annotations

import datetime
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import requests
import urllib3.exceptions
from docker.api.client import APIClient
from docker.errors import APIError, DockerException, create_api_error_from_http_exception

from devopsellence.nodeagent.docker import errors, names, output
from devopsellence.nodeagent.docker.cache import parse_inspected, parse_listed
from devopsellence.nodeagent.docker.frames import MalformedFrame, last_frames
from devopsellence.nodeagent.docker.images import ImageStore
from devopsellence.nodeagent.docker.model import Container, ContainerExit, EngineEvent, EngineListing, Network
from devopsellence.nodeagent.docker.output import volumes_of
from devopsellence.nodeagent.docker.process import running_time

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
#: End of the log of a removed container to keep.
LOG_TAIL_ENTRIES: Final = 2000
LOG_TAIL_BYTES: Final = 256 * 1024
_CHUNK: Final = 64 * 1024
#: Subscribed events. Left out on purpose: exec_* (an exec probe causes two) and top.
_EVENTS: Final = {
    "type": ["container", "network", "image"],
    "event": [
        *("create", "start", "die", "destroy", "pause", "unpause", "rename", "update"),
        *("connect", "disconnect", "load", "pull", "import", "tag"),
    ],
}  # fmt: skip


class DockerClient:
    """Client of a Docker Engine, limited to the containers and networks with the label of ``node_uid``.

    Raises:
        EngineUnavailable: the engine does not answer.
        TimedOut: the engine does not answer this call.
    """

    def __init__(self, host: str, node_uid: str) -> None:
        self._host = host
        with errors.translated():
            self._client = self._connect(errors.CALL_SECONDS)
        self._uid = node_uid
        #: Calls about images.
        self.images = ImageStore(self._client, self._connect)

    def _connect(self, timeout: int) -> APIClient:
        client = APIClient(base_url=self._host, version="auto", timeout=timeout, max_pool_size=32)
        # Otherwise requests looks for proxies and a .netrc before each call.
        client.trust_env = False
        return client

    def close(self) -> None:
        """Close idle connections. An open event stream is closed by :meth:`EventStream.close`."""
        self._client.close()

    @contextmanager
    def client(self) -> Iterator[APIClient]:
        """Lend the SDK client to ``docker.streams``; SDK errors within the block become errors of ``docker.errors``."""
        with errors.translated():
            yield self._client

    def version(self) -> str:
        """Return the engine's version, such as ``20.10.24``."""
        with errors.translated():
            return str(self._client.version()["Version"])

    def ping(self) -> None:
        """Ping the engine. EngineUnavailable without an answer."""
        with errors.translated():
            self._client.ping()

    def list(self) -> EngineListing:
        """List the containers and networks of this node, except the router's. Start times are missing in a listing."""
        own = {"label": f"{names.LABEL_NODE_UID}={self._uid}"}
        with errors.translated():
            containers = self._client.containers(all=True, filters=own)
            networks = self._client.networks(filters=own)
        return EngineListing(
            tuple(
                parse_listed(container)
                for container in containers
                if not (container.get("Labels") or {}).get(names.LABEL_ROUTER)
            ),
            tuple(
                Network(network["Id"], network["Name"], (network.get("Labels") or {}).get(names.LABEL_ENVIRONMENT, ""))
                for network in networks
            ),
        )

    def inspect(self, container: str) -> Container | None:
        """Return a container by id or name; None for the router or a container of someone else. NotFound if missing."""
        with errors.translated():
            document = self._client.inspect_container(container)
        labels = document["Config"].get("Labels") or {}
        is_own = labels.get(names.LABEL_NODE_UID) == self._uid and not labels.get(names.LABEL_ROUTER)
        return _inspected(document) if is_own else None

    def inspect_any(self, container: str) -> Container:
        """Return a container by id or name, also one of someone else. NotFound if missing."""
        with errors.translated():
            return _inspected(self._client.inspect_container(container))

    def existing(self, containers: Iterable[str]) -> frozenset[str]:
        """Return those of these containers (ids) that exist, whoever created them."""
        ids = sorted(containers)
        if not ids:
            return frozenset()
        with errors.translated():
            return frozenset(str(found["Id"]) for found in self._client.containers(all=True, filters={"id": ids}))

    def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        """Create a bridge network and return its id.

        Raises:
            Conflict: the name exists.
            NoAddressPool: no subnet is left.
        """
        with errors.translated():
            answer = self._client.create_network(name, driver="bridge", labels=dict(labels), check_duplicate=True)
        return str(answer["Id"])

    def remove_network(self, network: str) -> None:
        """Remove a network. NotFound if missing; EngineError with the containers' names while some are attached."""
        with errors.translated():
            self._client.remove_network(network)

    def pull(
        self, repository: str, digest: str, progress: Callable[[str], None], login: tuple[str, str] | None = None
    ) -> None:
        """Pull an image by digest.

        ``progress`` is called on this thread with texts such as ``3 of 7 layers``. ``login``: user name and password
        for a registry with authentication.

        Raises:
            ImageNotAvailable: the registry does not answer or refuses the image.
            DiskFull: no space left for the image.
        """
        layers: dict[str, str] = {}
        try:
            with errors.translated():
                auth = {"username": login[0], "password": login[1]} if login else None
                for line in self._client.pull(repository, tag=digest, stream=True, decode=True, auth_config=auth):
                    if "error" in line:
                        raise errors.refusal_of(str(line["error"]), errors.ImageNotAvailable)
                    _note(layers, line, progress)
        except errors.EngineUnavailable:
            raise
        except errors.DiskFull:
            raise
        except errors.EngineError as error:
            raise errors.ImageNotAvailable(str(error)) from error

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id. The image's own labels of this project are overridden.

        Raises:
            ImageNotAvailable, Conflict (the name is in use), EngineRefused, DiskFull.
        """
        inherited = dict.fromkeys(self.images.labels(str(body["Image"])), "")
        body = {**body, "Labels": {**inherited, **body["Labels"]}}
        with errors.translated(errors.EngineRefused):
            answer = self._client.create_container_from_config(dict(body), name)  # type: ignore[no-untyped-call]
        return str(answer["Id"])

    def start(self, container: str) -> Container | None:
        """Start a container, unless running already, and return its new state.

        Raises:
            NotFound, NetworkGone, EngineRefused, HalfStarted, DiskFull.
        """
        with errors.translated(errors.EngineRefused):
            self._client.start(container)
        started = self.inspect(container)
        return replace(started, labels={}) if started is not None else None

    def connect(self, network: str, container: str, alias: str) -> None:
        """Attach a container to a network, replacing an earlier attachment to the same network."""
        with errors.translated():
            # Fails when the container is not attached, which is the desired state anyway.
            with suppress(APIError):
                self._client.disconnect_container_from_network(container, network, force=True)
            self._client.connect_container_to_network(container, network, aliases=[alias])

    def stop(self, container: str) -> None:
        """Stop a container: SIGTERM (or the image's stop signal), then SIGKILL after the grace period of the
        container."""
        with errors.translated():
            document = self._client.inspect_container(container)
            if document["State"]["Paused"]:
                self._client.unpause(container)
            grace = document["Config"].get("StopTimeout")
            self._client.stop(container, timeout=10 if grace is None else grace)

    def update(self, container: str, body: Mapping[str, Any]) -> None:
        """Change the settings of a container, as the body of ``POST /containers/<id>/update`` (API 1.41) says.

        A container that waits for its restart by the engine is stopped: the engine would still start it once.

        Raises:
            NotFound, EngineRefused.
        """
        with errors.translated(errors.EngineRefused):
            url = f"{self._client.base_url}/v{self._client.api_version}/containers/{container}/update"
            response = self._client.post(url, json=dict(body), timeout=errors.CALL_SECONDS)
            try:
                response.raise_for_status()
            except requests.HTTPError as error:
                create_api_error_from_http_exception(error)
            state = self._client.inspect_container(container)["State"]
            if state["Restarting"]:
                self._client.stop(container, timeout=0)

    def remove(self, container: str, *, force: bool = False, anonymous: bool = False) -> None:
        """Remove a stopped container; all volumes stay, except ``anonymous`` ones. Conflict while running, unless
        ``force``."""
        with errors.translated():
            self._client.remove_container(container, force=force, v=anonymous)

    def remove_volume(self, volume: str) -> None:
        """Remove a volume. NotFound if missing, Conflict while a container has it."""
        with errors.translated():
            self._client.remove_volume(volume)

    def inspect_exited(self, container: str) -> tuple[Container, ContainerExit | None]:
        """Return an exited container with its exit; the exit is None if running again. NotFound if missing."""
        with errors.translated():
            document = self._client.inspect_container(container)
        exited, state = replace(_inspected(document), labels={}), document["State"]
        if exited.up:
            return exited, None
        # Always set an exit time, even where the engine has none: the exit time tells exits apart.
        exited = replace(exited, finished_at=exited.finished_at or exited.started_at or "1970-01-01T00:00:00Z")
        ran = _between(exited.started_at, exited.finished_at)
        oom = bool(state.get("OOMKilled"))
        lines = self._last_lines(container, document)
        return exited, ContainerExit(int(state.get("ExitCode", 0)), oom, exited.finished_at, ran, lines)

    def last_lines(self, container: str) -> tuple[str, ...]:
        """Return the last lines of a container's output so far, as for an exit. NotFound if missing."""
        with errors.translated():
            document = self._client.inspect_container(container)
        return self._last_lines(container, document)

    def volume_hint(self, container: str) -> str:
        """Return a sentence about a volume that only root can write, under an image that does not run as root; "" if
        there is none. Works for an exited container, too. NotFound if missing."""
        with errors.translated():
            document = self._client.inspect_container(container)
            for volume in volumes_of(document):
                if hint := volume.hint(*self._owner(container, volume.path)):
                    return hint
        return ""

    def _owner(self, container: str, path: str) -> tuple[int, int]:
        """Return uid and mode of a folder in a container, from the first header of its archive."""
        url = f"{self._client.base_url}/v{self._client.api_version}/containers/{container}/archive"
        # The engine compresses for whoever accepts it, as requests does by default.
        plain = {"Accept-Encoding": "identity"}
        response = self._client.get(url, params={"path": path}, headers=plain, stream=True, timeout=errors.CALL_SECONDS)
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
        try:
            with response, tarfile.open(fileobj=response.raw, mode="r|") as archive:
                first = archive.next()
        except tarfile.TarError as error:
            raise errors.EngineError(f"the Docker Engine returns no archive of {path}: {error}") from error
        return (first.uid, first.mode) if first is not None else (-1, 0)

    def log_tail(self, container: str) -> bytes:
        """Return the end of a container's log with timestamps and without the container's secrets, as whole frames of
        the engine (``docker.frames``).

        Raises:
            NotFound: no such container.
            EngineError: the log cannot be read.
        """
        params = {"stdout": 1, "stderr": 1, "timestamps": 1, "tail": LOG_TAIL_ENTRIES}
        with errors.translated():
            secrets = output.secret_values(self._client.inspect_container(container))
            url = f"{self._client.base_url}/v{self._client.api_version}/containers/{container}/logs"
            response = self._client.get(url, params=params, stream=True, timeout=errors.CALL_SECONDS)
            try:
                response.raise_for_status()
            except requests.HTTPError as error:
                create_api_error_from_http_exception(error)
            try:
                with response:
                    chunks = response.raw.stream(_CHUNK, decode_content=False)
                    return last_frames(chunks, LOG_TAIL_BYTES, partial(output.redacted, secrets=secrets))
            except MalformedFrame as error:
                raise errors.EngineError(f"the Docker Engine does not return the output: {error}") from error

    def _last_lines(self, container: str, document: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            with errors.translated():
                raw = self._client.logs(container, tail=output.MAX_LINES)
        except errors.EngineUnavailable:
            raise
        except errors.EngineError as error:
            return (f"(the Docker Engine does not return the output: {error})",)
        return output.last_lines(bytes(raw), output.secret_values(document))

    def events(self) -> EventStream:
        """Subscribe to events; the engine records from the moment of return."""
        with errors.translated():
            return EventStream(self._client.events(decode=True, filters=_EVENTS))


class EventStream:
    """Engine events. Iterating blocks, ends when the engine goes away, and raises nothing."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> Iterator[EngineEvent]:
        try:
            for raw in self._source:
                actor = raw.get("Actor") or {}
                yield EngineEvent(
                    raw.get("Type", ""),
                    raw.get("Action", ""),
                    actor.get("ID", ""),
                    actor.get("Attributes") or {},
                    time.monotonic(),
                )
        except (OSError, ValueError, AttributeError, requests.RequestException, urllib3.exceptions.HTTPError):
            # The connection broke, in one of the many ways in which the SDK reports that; the reader reconnects.
            return

    def close(self) -> None:
        """End the iteration, from any thread."""
        with suppress(OSError, AttributeError, DockerException):
            self._source.close()


def _inspected(document: Mapping[str, Any]) -> Container:
    age = running_time(int(document["State"].get("Pid") or 0), str(document["Id"]))
    # Not visible from here: at least it runs now, and the cache keeps the time at which that was seen first.
    return parse_inspected(document, time.monotonic() - (age or 0.0))


def _between(started: str, finished: str) -> float:
    """Return the seconds between two engine timestamps (RFC 3339), 0 if the engine's clock was set back in between."""
    if not started or not finished:
        return 0.0
    begin, end = (datetime.datetime.fromisoformat(timestamp) for timestamp in (started, finished))
    return max(0.0, (end - begin).total_seconds())


def _note(layers: dict[str, str], line: Mapping[str, Any], progress: Callable[[str], None]) -> None:
    """Count finished layers and report progress; the engine names a layer once per stage."""
    layer, status = str(line.get("id", "")), str(line.get("status", ""))
    if not layer or status.startswith("Pulling from"):
        return
    before = _finished(layers)
    layers[layer] = status
    if _finished(layers) != before or len(layers) == 1:
        progress(f"{_finished(layers)} of {len(layers)} layers")


def _finished(layers: Mapping[str, str]) -> int:
    return sum(status in ("Pull complete", "Already exists") for status in layers.values())
