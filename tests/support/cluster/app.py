"""An app for the bed: a small web server whose version is in its configuration, deployed with the real command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from devopsellence.api.v1.stored_pb2 import Environment
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.records import decode
from tests.support.cluster.bed import Bed
from tests.support.images import new_web_image, web_image

PORT: Final = 3000
SERVICE: Final = "web"
_CONFIG: Final = """\
schema_version: 1
organization: acme
project: {project}
services:
  web:
    image: {image}
    env:
      # Another version is another container; "broken" is one that never becomes healthy.
      VERSION: "{version}"
      # Goes on answering for so long after it was asked to end, as an app does whose clients learn of it by and by.
      LINGER: "{linger}"
    ports:
      - name: http
        port: {port}
    healthcheck:
      path: /up
      port: {port}
      interval: 500ms
      retries: 2
    stop_grace_period: 10s
deploy:
  max_parallel: 1
  on_failure: rollback
  progress_deadline: 60s
"""


class App:
    """A project in ``folder``, on ``bed``. ``linger``: seconds that a version goes on after it was told to end."""

    def __init__(self, bed: Bed, folder: Path, project: str, *, linger: float = 1.5) -> None:
        self.bed = bed
        self.folder = folder
        self.ref = EnvironmentRef("acme", project, "production")
        #: The name of its image on the machine that deploys.
        self.image = web_image()
        self._linger = linger
        self.write("1")

    def write(self, version: str) -> None:
        """Write the configuration with another version."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = _CONFIG.format(
            project=self.ref.project, image=self.image, version=version, linger=self._linger, port=PORT
        )
        (self.folder / "devopsellence.yml").write_text(text)

    def attach(self, *hosts: str) -> None:
        """Let hosts run it."""
        for name in hosts:
            self.devopsellence("node", "attach", name)

    def deploy(self, version: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Deploy a version, and follow the rollout unless told otherwise."""
        self.write(version)
        return self.devopsellence("deploy", *arguments, check=check)

    def devopsellence(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder."""
        return self.bed.devopsellence(*arguments, check=check, cwd=self.folder)

    @contextmanager
    def new_image(self) -> Iterator[str]:
        """Within the block it is deployed with an image that no host has; its id."""
        before = self.image
        with new_web_image() as self.image:
            found = ["docker", "image", "inspect", "--format", "{{.Id}}", self.image]
            try:
                yield subprocess.run(found, check=True, capture_output=True, text=True).stdout.strip()
            finally:
                self.image = before

    @property
    def release(self) -> int:
        """The number of the newest release."""

        async def work(etcd: Etcd) -> int:
            found = await etcd.get(etcd.keys.environment(self.ref))
            return decode(Environment, found.key, found.value).latest_release if found else 0

        return self.bed.store(work)
