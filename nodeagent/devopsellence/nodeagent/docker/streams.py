"""Streams of the engine, through the SDK: logs, image archives, and bidirectional connections to processes.

Only ``docker.client``, ``docker.errors`` and this module import the SDK. Functions block and belong on a thread
(``DockerEngine.ask``); they raise only the errors of ``docker.errors``. A bidirectional connection is returned as a
plain socket for the event loop; logs and images are read on a thread, because of their HTTP framing.
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

from devopsellence.nodeagent.docker import address_pools, errors, names
from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.frames import FrameParser, MalformedFrame, count_lines

_CHUNK: Final = 64 * 1024
#: Limit for the first byte of an image: the engine writes the whole image to its disk before.
_SAVE_SECONDS: Final = 600
#: Detach keys of a terminal. The engine holds back the first key until the next, cannot be told to have none, and has
#: Ctrl-P, Ctrl-Q by default. An exec takes ASCII only: of the control characters, Ctrl-^ is the least used. An attached
#: container takes bytes: these two are never part of UTF-8.
EXEC_DETACH_KEYS: Final = ",".join(["ctrl-^", "ctrl-@", "ctrl-_"] * 3)
ATTACH_DETACH_KEYS: Final = b"\xff,\xfe,\xff,\xfe"
#: Factor by which a tail with too few lines is widened; a line of the greatest length has 16 entries.
_WIDER: Final = 4
_BRIDGE_NAME: Final = "com.docker.network.bridge.name"


@dataclass(frozen=True, slots=True)
class HijackedConnection:
    """A connection hijacked by the engine for a container's stdin and output. ``buffered``: bytes received with the
    engine's response. The non-blocking socket belongs to the caller."""

    socket: socket.socket
    buffered: bytes


@dataclass(frozen=True, slots=True)
class ExecState:
    """State of an exec'd command. ``pid``: its process on the engine's machine; 0 before the start."""

    running: bool
    exit_code: int
    pid: int


@dataclass(frozen=True, slots=True)
class BridgeNetwork:
    """A bridge network. ``name``: interface on the engine's machine. ``own``: the network of an environment."""

    name: str
    own: bool
    ipv6: bool


class _StreamedResponse:
    """A streamed response of the engine."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._closed = False

    def close(self) -> None:
        """Stop reading, from any thread."""
        self._closed = True
        with suppress(OSError, AttributeError, DockerException):
            CancellableStream(iter(()), self._response).close()

    def release(self) -> None:
        """Release the connection, on the reading thread."""
        with suppress(OSError, urllib3.exceptions.HTTPError):
            self._response.close()


class LogStream(_StreamedResponse):
    """Log of a container. Iterating blocks, and ends with the log or by :meth:`close` from another thread."""

    def __iter__(self) -> Iterator[tuple[bool, bytes]]:
        """Yield entries as (is stderr, entry in the engine's format).

        Raises:
            EngineUnavailable: the connection broke before the end of the log.
        """
        frames = FrameParser()
        try:
            for chunk in self._response.raw.stream(_CHUNK, decode_content=False):
                yield from frames.feed(chunk)
        except (OSError, ValueError, AttributeError, urllib3.exceptions.HTTPError, MalformedFrame) as error:
            # Closing from another thread surfaces as any of these errors.
            if not self._closed:
                raise errors.EngineUnavailable(
                    f"the connection to the Docker Engine broke while reading a log: {error}"
                ) from error


class ArchiveStream(_StreamedResponse):
    """Archive of an image."""

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes, fewer only at the end, none after the end. Blocks.

        Raises:
            EngineUnavailable: the connection broke before the end of the archive.
        """
        try:
            return bytes(self._response.raw.read(count))
        except (OSError, ValueError, AttributeError, urllib3.exceptions.HTTPError) as error:
            raise errors.EngineUnavailable(
                f"the connection to the Docker Engine broke while reading an image: {error}"
            ) from error


def open_archive(docker: DockerClient, image: str) -> ArchiveStream:
    """Open the archive of an image, by id or name, in the format of ``docker save``; may take minutes to start.

    Raises:
        ImageNotAvailable: no such image.
    """
    with docker.client() as client:
        url = f"{client.base_url}/v{client.api_version}/images/{image}/get"
        response = client.get(url, stream=True, timeout=(errors.CALL_SECONDS, _SAVE_SECONDS))
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
    return ArchiveStream(response)


def open_log(
    docker: DockerClient, container: str, *, follow: bool, tail: int | None, since: tuple[int, int]
) -> LogStream:
    """Open a container's log with timestamps: the last ``tail`` entries (None: all) after ``since`` (zeros: all).

    ``since`` is (seconds, nanoseconds) since the epoch, because a float cannot tell neighbouring lines apart.
    """
    params: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
    params["tail"] = "all" if tail is None else tail
    if since > (0, 0):
        params["since"] = "{}.{:09}".format(*since)
    with docker.client() as client:
        url = f"{client.base_url}/v{client.api_version}/containers/{container}/logs"
        # A followed log may be silent for days.
        response = client.get(url, params=params, stream=True, timeout=(errors.CALL_SECONDS, None))
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
    return LogStream(response)


def find_tail(docker: DockerClient, container: str, lines: int, since: tuple[int, int]) -> tuple[int, int]:
    """Return the tail of a log with its last ``lines`` lines: number of entries, and of lines to skip at its beginning.

    The engine counts a long line as several entries, so the tail is widened until it has enough lines. Its first line
    may lack its beginning and counts as skipped, unless the tail is the whole log.
    """
    entries = lines + 1
    while True:
        log = open_log(docker, container, follow=False, tail=entries, since=since)
        try:
            seen, found = count_lines(log)
        finally:
            log.release()
        if found > lines or seen < entries:
            return entries, max(0, found - lines)
        entries *= _WIDER


def create_exec(
    docker: DockerClient,
    container: str,
    command: Sequence[str],
    *,
    stdin: bool,
    tty: bool,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Create an exec of a command in a running container and return the exec id. ``environ``: more variables."""
    with docker.client() as client:
        created = client.exec_create(
            container,
            list(command),
            stdin=stdin,
            tty=tty,
            environment=dict(environ) if environ else None,
            detach_keys=EXEC_DETACH_KEYS,
        )
    return str(created["Id"])


def start_exec(docker: DockerClient, exec_id: str, *, tty: bool) -> HijackedConnection:
    """Start an exec and return the connection to its process."""
    with docker.client() as client:
        return _connection(client.exec_start(exec_id, tty=tty, socket=True))


def inspect_exec(docker: DockerClient, exec_id: str) -> ExecState:
    """Return the state of an exec."""
    with docker.client() as client:
        document: Mapping[str, Any] = client.exec_inspect(exec_id)
    code = document.get("ExitCode")
    return ExecState(bool(document["Running"]), 0 if code is None else int(code), int(document.get("Pid") or 0))


def resize_exec(docker: DockerClient, exec_id: str, columns: int, rows: int) -> None:
    """Resize the terminal of an exec."""
    with docker.client() as client:
        client.exec_resize(exec_id, height=rows, width=columns)


def attach(docker: DockerClient, container: str, *, stdin: bool) -> HijackedConnection:
    """Attach to a container's stdin and output; call before the start, so that no output is lost."""
    params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1, "detachKeys": ATTACH_DETACH_KEYS}
    with docker.client() as client:
        return _connection(client.attach_socket(container, params=params))


def resize(docker: DockerClient, container: str, columns: int, rows: int) -> None:
    """Resize a container's terminal."""
    with docker.client() as client:
        client.resize(container, height=rows, width=columns)


def kill(docker: DockerClient, container: str, signal: str) -> None:
    """Send a signal to a container's first process. Conflict unless running."""
    with docker.client() as client:
        client.kill(container, signal=signal)


def wait(docker: DockerClient, container: str) -> int:
    """Wait for the exit of a container and return the exit code; blocks."""
    with docker.client() as client:
        return int(client.wait(container)["StatusCode"])


def exit_code(docker: DockerClient, container: str) -> int:
    """Return a container's exit code; after a failed start the code of a shell for the same failure (126, 127)."""
    with docker.client() as client:
        return int(client.inspect_container(container)["State"].get("ExitCode", 0))


def discard(docker: DockerClient, container: str) -> None:
    """Remove a container and its anonymous volumes; no error if missing."""
    with suppress(errors.NotFound), docker.client() as client:
        client.remove_container(container, v=True, force=True)


def data_root(docker: DockerClient) -> str:
    """Return the engine's data root, on the engine's machine."""
    with docker.client() as client:
        return str(client.info().get("DockerRootDir") or "")


def networks_left(docker: DockerClient) -> int:
    """Return the number of networks that the engine can still create, if it runs on this machine."""
    with docker.client() as client:
        return address_pools.networks_left(client.info(), client.networks(), address_pools.read_routes())


def bridges(docker: DockerClient, node_uid: str) -> list[BridgeNetwork]:
    """Return the bridge networks of the engine. Unless set by an option, the interface is named after the network id
    (Docker's documentation of the bridge driver)."""
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
    """Return the socket below an SDK socket, with the bytes already read beyond the HTTP response.

    The SDK would bypass the buffer with those bytes, so the first output of a quick command would be lost.
    """
    response = hijacked._response
    connection = socket.socket(fileno=hijacked._sock.dup().detach())
    hijacked._sock.setblocking(False)
    connection.setblocking(False)
    buffered = bytes(response.raw._fp.fp.peek())
    response.close()
    return HijackedConnection(connection, buffered)
