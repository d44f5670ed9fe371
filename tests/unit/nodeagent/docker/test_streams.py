"""Requests for connections to processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from devopsellence.nodeagent.docker import streams
from devopsellence.nodeagent.docker.client import DockerClient

CTRL_P = "ctrl-p"


class RecordedRequest(Exception):
    """Raised instead of connecting."""


class RecordingClient:
    """Stand-in for the Docker SDK's client that keeps the detach keys of the last request."""

    def __init__(self) -> None:
        self.keys: str | bytes | None = None

    @contextmanager
    def client(self) -> Iterator[RecordingClient]:
        yield self

    def exec_create(self, _container: str, _command: list[str], **options: Any) -> dict[str, str]:
        self.keys = options.get("detach_keys")
        return {"Id": "e1"}

    def attach_socket(self, _container: str, params: dict[str, Any]) -> None:
        self.keys = params.get("detachKeys")
        raise RecordedRequest


def test_exec_replaces_the_default_detach_keys() -> None:
    docker = RecordingClient()
    streams.create_exec(cast("DockerClient", docker), "c1", ["sh"], stdin=True, tty=True)
    assert docker.keys == streams.EXEC_DETACH_KEYS
    assert CTRL_P not in streams.EXEC_DETACH_KEYS.split(",")


def test_attach_replaces_the_default_detach_keys_by_bytes_outside_of_utf8() -> None:
    docker = RecordingClient()
    with suppress(RecordedRequest):
        streams.attach(cast("DockerClient", docker), "c1", stdin=True)
    assert docker.keys == streams.ATTACH_DETACH_KEYS
    assert {len(key) for key in streams.ATTACH_DETACH_KEYS.split(b",")} == {1}
    assert min(key[0] for key in streams.ATTACH_DETACH_KEYS.split(b",")) > 0xF4
