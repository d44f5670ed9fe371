"""The Docker Engine through its SDK: the only module that imports it.

Every method blocks and belongs on a thread (``engine`` has them). Methods may be called from several threads at once.
They raise only the errors of ``errors``, and return only the types of ``model``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import requests
import urllib3.exceptions
from docker.api.client import APIClient
from docker.errors import APIError, DockerException, ImageNotFound

from devopsellence.clock import Now
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.cache import epoch, parse_inspected, parse_listed
from devopsellence.nodeagent.docker.images import ImageStore
from devopsellence.nodeagent.docker.model import Container, ContainerExit, EngineEvent, EngineListing, Network

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
#: The engine answers within milliseconds; a start takes a third of a second, on a busy machine several.
CALL_SECONDS: Final = 60
LOG_LINES: Final = 20
LOG_LINE_LENGTH: Final = 500
#: What the agent wants to hear of. Left out on purpose: exec_* (a health check by exec is two of them) and top.
_EVENTS: Final = {
    "type": ["container", "network", "image"],
    "event": [
        *("create", "start", "die", "destroy", "pause", "unpause", "rename"),
        *("connect", "disconnect", "load", "pull", "import", "tag"),
    ],
}  # fmt: skip
#: Of a container whose start was cut off by the engine's own end: what runs containers has kept its half of it.
_HALF_STARTED: Final = re.compile(r"\btask [0-9a-f]{64}:? already exists")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class DockerClient:
    """One Docker Engine, and of it only what carries ``node_uid``.

    Raises:
        EngineUnavailable: it does not answer.
    """

    def __init__(self, host: str, node_uid: str) -> None:
        self._host = host
        with _errors():
            self._client = self._connect(CALL_SECONDS)
        self._uid = node_uid
        #: Whole images, as opposed to what runs from them.
        self.images = ImageStore(self._client, self._connect, _errors, _refusal)

    def _connect(self, patience: int) -> APIClient:
        client = APIClient(base_url=self._host, version="auto", timeout=patience, max_pool_size=32)
        # Otherwise each call looks for proxies and a .netrc first.
        client.trust_env = False
        return client

    def close(self) -> None:
        """Close the idle connections; a stream that is being read ends by its own :meth:`EventStream.close`."""
        self._client.close()

    @contextmanager
    def client(self) -> Iterator[APIClient]:
        """The SDK's own client, for ``streams``; what it raises within the block becomes an error of ours."""
        with _errors():
            yield self._client

    def version(self) -> str:
        """The engine's version, such as ``20.10.24``."""
        with _errors():
            return str(self._client.version()["Version"])

    def ping(self) -> None:
        """EngineUnavailable unless it answers."""
        with _errors():
            self._client.ping()

    def list(self) -> EngineListing:
        """Everything that is ours but the router. It does not tell since when containers run."""
        ours = {"label": f"{names.LABEL_NODE_UID}={self._uid}"}
        with _errors():
            containers = self._client.containers(all=True, filters=ours)
            networks = self._client.networks(filters=ours)
        return EngineListing(
            tuple(
                parse_listed(container)
                for container in containers
                if names.LABEL_ROUTER not in (container.get("Labels") or {})
            ),
            tuple(
                Network(network["Id"], network["Name"], (network.get("Labels") or {}).get(names.LABEL_ENVIRONMENT, ""))
                for network in networks
            ),
        )

    def inspect(self, container: str) -> Container | None:
        """A container by id or name; None if it is not ours, or the router. NotFound if there is none."""
        with _errors():
            document = self._client.inspect_container(container)
        labels = document["Config"].get("Labels") or {}
        ours = labels.get(names.LABEL_NODE_UID) == self._uid and names.LABEL_ROUTER not in labels
        return parse_inspected(document, _now()) if ours else None

    def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        """Its id. Conflict if a network of this name is there."""
        with _errors():
            answer = self._client.create_network(name, driver="bridge", labels=dict(labels), check_duplicate=True)
        return str(answer["Id"])

    def remove_network(self, network: str) -> None:
        """NotFound if it is gone; EngineError, naming who, while something is attached to it."""
        with _errors():
            self._client.remove_network(network)

    def pull(
        self, repository: str, digest: str, progress: Callable[[str], None], login: tuple[str, str] | None = None
    ) -> None:
        """Pull an image by digest. ``progress`` gets sentences such as ``3 of 7 layers``, from this thread. ``login``:
        user name and password for the registry, where it asks for them.

        Raises:
            ImageNotAvailable: the registry does not answer or does not give it.
            DiskFull: there is no room for it.
        """
        layers: dict[str, str] = {}
        try:
            with _errors():
                auth = {"username": login[0], "password": login[1]} if login else None
                for line in self._client.pull(repository, tag=digest, stream=True, decode=True, auth_config=auth):
                    if "error" in line:
                        raise _refusal(str(line["error"]), errors.ImageNotAvailable)
                    _note(layers, line, progress)
        except errors.EngineUnavailable:
            raise
        except errors.DiskFull:
            raise
        except errors.EngineError as error:
            raise errors.ImageNotAvailable(str(error)) from error

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """The new container's id.

        Raises:
            ImageNotAvailable, Conflict (the name is taken), Refused, DiskFull.
        """
        with _errors(errors.EngineRefused):
            answer = self._client.create_container_from_config(dict(body), name)  # type: ignore[no-untyped-call]
        return str(answer["Id"])

    def start(self, container: str) -> Container | None:
        """Start it, unless it runs already; how it stands then.

        Raises:
            NotFound, NetworkGone, Refused, HalfStarted, DiskFull.
        """
        with _errors(errors.EngineRefused):
            self._client.start(container)
        return self.inspect(container)

    def connect(self, network: str, container: str, alias: str) -> None:
        """Put a container on a network, in place of whatever it has there from before."""
        with _errors():
            # Refused when it was not there, which is what the call is for.
            with suppress(APIError):
                self._client.disconnect_container_from_network(container, network, force=True)
            self._client.connect_container_to_network(container, network, aliases=[alias])

    def stop(self, container: str) -> None:
        """SIGTERM (or the image's stop signal), and SIGKILL after the grace period that the container was made with."""
        with _errors():
            document = self._client.inspect_container(container)
            if document["State"]["Paused"]:
                self._client.unpause(container)
            grace = document["Config"].get("StopTimeout")
            self._client.stop(container, timeout=10 if grace is None else grace)

    def remove(self, container: str, *, force: bool = False) -> None:
        """Remove one that does not run; its volumes stay, named or not. Conflict if it runs, unless ``force``."""
        with _errors():
            self._client.remove_container(container, force=force)

    def inspect_exited(self, container: str) -> tuple[Container, ContainerExit | None]:
        """A container of ours that was seen ended, and how it ended; None if it runs again. NotFound if it is gone."""
        with _errors():
            document = self._client.inspect_container(container)
        seen, state = parse_inspected(document, _now()), document["State"]
        if seen.up:
            return seen, None
        # An end has a time even where the engine kept none: it is what tells one end from another.
        seen = replace(seen, finished_at=seen.finished_at or seen.started_at or "1970-01-01T00:00:00Z")
        ran = max(0.0, epoch(seen.finished_at) - epoch(seen.started_at))
        oom = bool(state.get("OOMKilled"))
        return seen, ContainerExit(int(state.get("ExitCode", 0)), oom, seen.finished_at, ran, self._logs(container))

    def _logs(self, container: str) -> tuple[str, ...]:
        """The last lines of its output, oldest first, shortened, without control characters."""
        try:
            with _errors():
                raw = self._client.logs(container, tail=LOG_LINES)
        except errors.EngineUnavailable:
            raise
        except errors.EngineError as error:
            return (f"(the engine does not give its output: {error})",)
        lines = bytes(raw).decode(errors="replace").splitlines()[-LOG_LINES:]
        return tuple(_CONTROL.sub("", line)[:LOG_LINE_LENGTH] for line in lines)

    def events(self) -> EventStream:
        """What happens from now on; the engine has begun to record it when this returns."""
        with _errors():
            return EventStream(self._client.events(decode=True, filters=_EVENTS))


class EventStream:
    """The engine's events. Iterating blocks, ends when the engine goes away, and raises nothing."""

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
                    raw.get("timeNano", 0) / 1e9,
                )
        except (OSError, ValueError, AttributeError, requests.RequestException, urllib3.exceptions.HTTPError):
            # The connection broke in one of the many ways in which the SDK shows it; the reader connects anew.
            return

    def close(self) -> None:
        """End the iteration, from another thread."""
        with suppress(OSError, AttributeError, DockerException):
            self._source.close()


def _now() -> Now:
    return Now(time.monotonic(), time.time())


@contextmanager
def _errors(refusal: type[errors.EngineError] = errors.EngineError) -> Iterator[None]:
    """Our errors instead of the SDK's; ``refusal`` is what a refusal becomes that is nothing more special."""
    try:
        yield
    except ImageNotFound as error:
        raise errors.ImageNotAvailable(_sentence(error)) from error
    except APIError as error:
        sentence = _sentence(error)
        if error.status_code == 404 and sentence.startswith("network "):
            raise errors.NetworkGone(sentence) from error
        if error.status_code == 404:
            raise errors.NotFound(sentence) from error
        if _HALF_STARTED.search(sentence):
            raise errors.HalfStarted(sentence) from error
        if error.status_code == 409:
            raise errors.Conflict(sentence) from error
        raise _refusal(sentence, refusal) from error
    except (OSError, requests.RequestException, urllib3.exceptions.HTTPError, DockerException) as error:
        raise errors.EngineUnavailable(f"the Docker Engine does not answer: {error}") from error


def _refusal(sentence: str, kind: type[errors.EngineError]) -> errors.EngineError:
    return errors.DiskFull(sentence) if "no space left on device" in sentence else kind(sentence)


def _sentence(error: APIError) -> str:
    return str(error.explanation or error).strip().removesuffix(": unknown")


def _note(layers: dict[str, str], line: Mapping[str, Any], progress: Callable[[str], None]) -> None:
    """Count finished layers; the engine names a layer once per step."""
    layer, status = str(line.get("id", "")), str(line.get("status", ""))
    if not layer or status.startswith("Pulling from"):
        return
    before = _finished(layers)
    layers[layer] = status
    if _finished(layers) != before or len(layers) == 1:
        progress(f"{_finished(layers)} of {len(layers)} layers")


def _finished(layers: Mapping[str, str]) -> int:
    return sum(status in ("Pull complete", "Already exists") for status in layers.values())
