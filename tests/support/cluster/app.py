"""App for the test bed: a small web server with its version in the configuration, deployed by command.

The server ends at once on SIGTERM (``tests/support/web/server.py``), so only the router can keep requests from
failing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from devopsellence.api.v1.stored_pb2 import Environment
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from tests.support.cluster.bed import Bed
from tests.support.images import new_web_image, web_image
from tests.support.load.plan import Plan

PORT: Final = 3000
SERVICE: Final = "web"
#: Where people look for it.
HOST: Final = "shop.test"
#: A service that no rule leads to.
PRIVATE: Final = "private"
PRIVATE_PORT: Final = 3001
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
    ports:
      - name: http
        port: {port}
    healthcheck:
      path: /up
      port: {port}
      interval: 500ms
      retries: 2
      start_period: 15s
    stop_grace_period: 10s
{private}ingress:
  hosts: [{host}]
  rules:
    - match:
        host: {host}
      target:
        service: web
        port: http
  tls: {tls}
deploy:
  max_parallel: 1
  on_failure: rollback
  progress_deadline: 60s
"""
_PRIVATE: Final = """\
  {name}:
    image: {image}
    env:
      PORT: "{port}"
    ports:
      - name: http
        port: {port}
    healthcheck:
      path: /up
      port: {port}
      interval: 500ms
      start_period: 15s
"""


class App:
    """Project in ``folder``, deployed on ``bed``.

    ``directory``: ACME server of the certificates; empty: plain HTTP. ``private``: with a further service,
    :data:`PRIVATE`, without an ingress rule.
    """

    def __init__(self, bed: Bed, folder: Path, project: str, *, directory: str = "", private: bool = False) -> None:
        self.bed = bed
        self.folder = folder
        self.ref = EnvironmentRef("acme", project, "production")
        #: The name of its image on the machine that deploys.
        self.image = web_image()
        self._directory = directory
        #: The authority of its certificates, where it is served by HTTPS: PEM, whoever knows it writes it there.
        self.authority = folder.with_name(f"{folder.name}-authority.pem")
        self._private = private
        self.write("1")

    def write(self, version: str) -> None:
        """Write the configuration with another version."""
        self.folder.mkdir(parents=True, exist_ok=True)
        private = _PRIVATE.format(name=PRIVATE, image=self.image, port=PRIVATE_PORT) if self._private else ""
        tls = (
            f'{{mode: auto, email: ops@{HOST}, ca_directory_url: "{self._directory}"}}'
            if self._directory
            else "{mode: off}"
        )
        text = _CONFIG.format(
            project=self.ref.project, image=self.image, version=version, port=PORT, private=private, host=HOST, tls=tls
        )
        (self.folder / "devopsellence.yml").write_text(text)

    def attach(self, *hosts: str) -> None:
        """Attach hosts to the environment."""
        for name in hosts:
            self.devopsellence("node", "attach", name)

    def deploy(self, version: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Deploy a version and follow the rollout, unless the arguments say otherwise."""
        self.write(version)
        return self.devopsellence("deploy", *arguments, check=check)

    def devopsellence(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder."""
        return self.bed.devopsellence(*arguments, check=check, cwd=self.folder)

    def plan(self) -> Plan:
        """Return a plan of requests to the app on a host, sent from that host."""
        if self._directory:
            return Plan("127.0.0.1", 443, HOST, authority=str(self.authority))
        return Plan("127.0.0.1", 80, HOST)

    @contextmanager
    def new_image(self) -> Iterator[str]:
        """Use an image missing on all hosts inside the block; yield the id."""
        before = self.image
        with new_web_image() as self.image:
            inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", self.image]
            try:
                yield subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
            finally:
                self.image = before

    @property
    def release(self) -> int:
        """Number of the newest release."""

        async def work(etcd: Etcd) -> int:
            record = await etcd.get(etcd.keys.environment(self.ref))
            return decode(Environment, record.key, record.value).latest_release if record else 0

        return self.bed.store(work)
