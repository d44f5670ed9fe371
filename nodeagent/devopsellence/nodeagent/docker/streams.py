"""The engine's streams through its SDK: logs as they are written, images, and connections that go both ways.

Beside ``docker`` the only module that knows the SDK. Functions block and belong on a thread (``Engine.ask``); they
raise only the errors of ``errors``. What is streamed afterwards needs no thread: a connection that goes both ways is
handed out as a plain socket for the event loop. Only logs and images are read by a thread, because HTTP frames them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import requests
import urllib3.exceptions
from docker.errors import DockerException, create_api_error_from_http_exception
from docker.types import CancellableStream

from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.client import CALL_SECONDS, DockerClient
from devopsellence.nodeagent.docker.frames import FrameParser, MalformedFrame

_CHUNK: Final = 64 * 1024
#: Before the first byte of an image the engine writes all of it to its disk.
_SAVE_SECONDS: Final = 600
_BRIDGE_NAME: Final = "com.docker.network.bridge.name"


@dataclass(frozen=True, slots=True)
class HijackedConnection:
    """A connection that the engine has turned into a container's stdin and output. ``ahead``: what came with the
    engine's answer already. The socket does not block and is the caller's to close."""

    socket: socket.socket
    ahead: bytes


@dataclass(frozen=True, slots=True)
class ExecState:
    """A command in a container. ``pid``: its process's number on the engine's machine; 0 before it begins."""

    running: bool
    exit_code: int
    pid: int


@dataclass(frozen=True, slots=True)
class BridgeNetwork:
    """A network of the engine. ``name``: of its interface on the engine's machine. ``ours``: of an environment."""

    name: str
    own: bool
    ipv6: bool


class _Answer:
    """An answer of the engine that is still being read."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._closed = False

    def close(self) -> None:
        """End the reading, from any thread."""
        self._closed = True
        with suppress(OSError, AttributeError, DockerException):
            CancellableStream(iter(()), self._response).close()

    def release(self) -> None:
        """Give the connection up, by whoever has read."""
        with suppress(OSError, urllib3.exceptions.HTTPError):
            self._response.close()


class LogStream(_Answer):
    """A container's log. Iterating blocks; ends where the log ends, or when it is closed from another thread."""

    def __iter__(self) -> Iterator[tuple[bool, bytes]]:
        """Whether it is of stderr, and the entry as the engine writes it.

        Raises:
            EngineUnavailable: the connection broke before the log's end.
        """
        frames = FrameParser()
        try:
            for chunk in self._response.raw.stream(_CHUNK, decode_content=False):
                yield from frames.feed(chunk)
        except (OSError, ValueError, AttributeError, urllib3.exceptions.HTTPError, MalformedFrame) as error:
            # Closing from another thread shows in one of many ways.
            if not self._closed:
                raise errors.EngineUnavailable(f"the Docker Engine has broken off a log: {error}") from error


class ArchiveStream(_Answer):
    """An image as an archive."""

    def read(self, count: int) -> bytes:
        """The next bytes, ``count`` of them unless it ends before; none at its end. Blocks.

        Raises:
            EngineUnavailable: the connection broke before the archive's end.
        """
        try:
            return bytes(self._response.raw.read(count))
        except (OSError, ValueError, AttributeError, urllib3.exceptions.HTTPError) as error:
            raise errors.EngineUnavailable(f"the Docker Engine has broken off an image: {error}") from error


def open_archive(docker: DockerClient, image: str) -> ArchiveStream:
    """An image, by its id or a name, as the engine writes it for ``docker load``; may take minutes to begin.

    Raises:
        ImageNotAvailable: there is none.
    """
    with docker.client() as client:
        url = f"{client.base_url}/v{client.api_version}/images/{image}/get"
        response = client.get(url, stream=True, timeout=(CALL_SECONDS, _SAVE_SECONDS))
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
    return ArchiveStream(response)


def open_log(
    docker: DockerClient, container: str, *, follow: bool, tail: int | None, since: tuple[int, int]
) -> LogStream:
    """A container's log with the engine's times: the last ``tail`` entries (None: all) since a moment (zeros: all).

    A moment is seconds and nanoseconds since the epoch, because a float does not tell neighbouring lines apart.
    """
    params: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
    params["tail"] = "all" if tail is None else tail
    if since > (0, 0):
        params["since"] = "{}.{:09}".format(*since)
    with docker.client() as client:
        url = f"{client.base_url}/v{client.api_version}/containers/{container}/logs"
        # A log that is followed may be silent for days.
        response = client.get(url, params=params, stream=True, timeout=(CALL_SECONDS, None))
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
    return LogStream(response)


def create_exec(docker: DockerClient, container: str, command: Sequence[str], *, stdin: bool, tty: bool) -> str:
    """The id of a command that is ready to be started in a running container."""
    with docker.client() as client:
        made = client.exec_create(container, list(command), stdin=stdin, tty=tty)
    return str(made["Id"])


def start_exec(docker: DockerClient, execution: str, *, tty: bool) -> HijackedConnection:
    """Start it, connected."""
    with docker.client() as client:
        return _connection(client.exec_start(execution, tty=tty, socket=True))


def inspect_exec(docker: DockerClient, execution: str) -> ExecState:
    """How it stands."""
    with docker.client() as client:
        document: Mapping[str, Any] = client.exec_inspect(execution)
    code = document.get("ExitCode")
    return ExecState(bool(document["Running"]), 0 if code is None else int(code), int(document.get("Pid") or 0))


def resize_exec(docker: DockerClient, execution: str, columns: int, rows: int) -> None:
    """Tell its terminal how large the window is."""
    with docker.client() as client:
        client.exec_resize(execution, height=rows, width=columns)


def attach(docker: DockerClient, container: str, *, stdin: bool) -> HijackedConnection:
    """A container's output from now on, and its stdin; to be called before it is started, so that nothing is lost."""
    params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
    with docker.client() as client:
        return _connection(client.attach_socket(container, params=params))


def resize(docker: DockerClient, container: str, columns: int, rows: int) -> None:
    """Tell a container's terminal how large the window is."""
    with docker.client() as client:
        client.resize(container, height=rows, width=columns)


def kill(docker: DockerClient, container: str, signal: str) -> None:
    """Send a signal to a container's first process. Conflict if it does not run."""
    with docker.client() as client:
        client.kill(container, signal=signal)


def wait(docker: DockerClient, container: str) -> int:
    """Its exit code, once it has ended; blocks until then."""
    with docker.client() as client:
        return int(client.wait(container)["StatusCode"])


def exit_code(docker: DockerClient, container: str) -> int:
    """Its exit code; where it could not be started, the one that a shell gives for the reason (126, 127)."""
    with docker.client() as client:
        return int(client.inspect_container(container)["State"].get("ExitCode", 0))


def discard(docker: DockerClient, container: str) -> None:
    """Remove a container with the volumes that have no name; nothing if it is gone."""
    with suppress(errors.NotFound), docker.client() as client:
        client.remove_container(container, v=True, force=True)


def one_offs(docker: DockerClient, node_uid: str) -> list[str]:
    """The one-off containers of this node that are there, in any state."""
    labels = [f"{names.LABEL_NODE_UID}={node_uid}", names.LABEL_ONE_OFF]
    with docker.client() as client:
        return [str(container["Id"]) for container in client.containers(all=True, filters={"label": labels})]


def data_root(docker: DockerClient) -> str:
    """Where the engine keeps its data, on its own machine."""
    with docker.client() as client:
        return str(client.info().get("DockerRootDir") or "")


def bridges(docker: DockerClient, node_uid: str) -> list[BridgeNetwork]:
    """The engine's networks that are a bridge of its machine. The interface is named after the network's id, unless the
    network says otherwise (Docker's documentation of the bridge driver)."""
    with docker.client() as client:
        networks = client.networks(filters={"driver": "bridge"})
    return [
        BridgeNetwork(
            (network.get("Options") or {}).get(_BRIDGE_NAME) or f"br-{network['Id'][:12]}",
            (network.get("Labels") or {}).get(names.LABEL_NODE_UID) == node_uid,
            bool(network.get("EnableIPv6")),
        )
        for network in networks
    ]


def _connection(hijacked: Any) -> HijackedConnection:
    """The socket below one of the SDK's, with what the SDK has read from it beyond the engine's answer.

    The SDK leaves that in a buffer which it then goes around, so that the first output of a quick command is lost.
    """
    response = hijacked._response
    ours = socket.socket(fileno=hijacked._sock.dup().detach())
    hijacked._sock.setblocking(False)
    ours.setblocking(False)
    ahead = bytes(response.raw._fp.fp.peek())
    response.close()
    return HijackedConnection(ours, ahead)
