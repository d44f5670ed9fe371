"""Ways of an image to a node: straight from the building engine, and through a registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import Host
from tests.support.need import lack
from tests.support.ports import free_ports
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)

CONFIG = """\
schema_version: 1
organization: acme
project: {project}
services:
  web:
    ports:
      - name: http
        port: 3000
    healthcheck:
      path: /up
      port: 3000
"""
# Of "open sesame".
_BCRYPT = "$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW"
DOCKERFILE = """\
FROM devopsellence/test:small
COPY page /www/index.html
CMD ["/bin/sh", "-c", "trap exit TERM; /bin/httpd -f -p 3000 -h /www & wait"]
"""


class App:
    def __init__(self, host: Host, folder: Path, project: str, more: str = "") -> None:
        self.host = host
        self.folder = folder
        (folder / "devopsellence.yml").write_text(CONFIG.format(project=project) + more)
        (folder / "Dockerfile").write_text(DOCKERFILE)
        self.page("one")

    def page(self, text: str) -> None:
        (self.folder / "page").write_text(text)

    def fetch(self) -> str:
        services = self.host.status(self.folder)["services"]
        return self.host.get(next(service["address"] for service in services if service["service"] == "web")).strip()

    def pinned(self) -> str:
        return self.host.docker(
            "inspect",
            "-f",
            "{{.Config.Image}}",
            *self.host.docker(
                "ps", "-q", "--filter", f"label=devopsellence.environment=acme/{self._project}/production"
            ).split(),
        )

    @property
    def _project(self) -> str:
        found = re.search(r"^project: (.*)$", (self.folder / "devopsellence.yml").read_text(), re.MULTILINE)
        assert found is not None
        return found[1]


def elsewhere(host: Host, folder: Path) -> dict[str, str]:
    """Return the variables of a person who builds with this machine's engine and deploys to the host's cluster."""
    home = host.folder / "home" / "dev"
    endpoint = re.search(r"ENDPOINTS=['\"]?https://([0-9.:]+)", host.devopsellence("dev", "env").stdout)
    assert endpoint is not None
    return {
        "DEVOPSELLENCE_HOME": str(folder / "elsewhere"),
        "DOCKER_HOST": "unix:///var/run/docker.sock",
        "DEVOPSELLENCE_ETCD_ENDPOINTS": endpoint[1],
        "DEVOPSELLENCE_ETCD_CA_CERT": str(home / "pki" / "ca.crt"),
        "DEVOPSELLENCE_ETCD_CERT": str(home / "pki" / "operator.crt"),
        "DEVOPSELLENCE_ETCD_KEY": str(home / "pki" / "operator.key"),
    }


def test_image_is_uploaded_from_building_engine(stocked: Host, tmp_path: Path) -> None:
    app = App(stocked, tmp_path, "direct")
    environ = elsewhere(stocked, tmp_path)
    stocked.devopsellence("node", "attach", "local", cwd=tmp_path, environ=environ)
    first = stocked.devopsellence("deploy", cwd=tmp_path, environ=environ)
    assert app.fetch() == "one"
    app.page("two")
    second = stocked.devopsellence("deploy", cwd=tmp_path, environ=environ)
    assert app.fetch() == "two"
    assert app.pinned().startswith("sha256:")
    # What was sent is said: of the second image only what is new.
    assert "local" in first.stderr + first.stdout
    assert "local" in second.stderr + second.stdout


@pytest.fixture
def registry(stocked: Host, tmp_path: Path) -> Iterator[str]:
    """Registry on the host's loopback, with a user ann whose password is "open sesame"."""
    program = shutil.which("docker-registry")
    if program is None:
        lack("needs docker-registry on PATH")
    (port,) = free_ports(1)
    (tmp_path / "htpasswd").write_text(f"ann:{_BCRYPT}\n")
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}\n"
    )
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(stocked.command(program, "serve", str(config)), stdout=log, stderr=log)
    try:
        until(
            "the registry answers",
            lambda: "listening on" in (tmp_path / "registry.log").read_text() or process.poll() is not None,
        )
        yield f"127.0.0.1:{port}/shop"
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_image_goes_through_registry_with_password(stocked: Host, tmp_path: Path, registry: str) -> None:
    more = f"registry:\n  repository: {registry}\n  username: ann\n  password_secret: REGISTRY_PASSWORD\n"
    app = App(stocked, tmp_path, "pushed", more)
    missing = stocked.devopsellence("deploy", cwd=tmp_path, check=False)
    assert missing.returncode == 1
    assert "REGISTRY_PASSWORD" in missing.stderr
    args = ("secret", "set", "REGISTRY_PASSWORD", "--registry", "--stdin")
    stocked.devopsellence(*args, stdin="open sesame\n", cwd=tmp_path)
    stocked.devopsellence("deploy", cwd=tmp_path)
    assert app.fetch() == "one"
    pinned = app.pinned()
    assert re.fullmatch(rf"{re.escape(registry)}@sha256:[0-9a-f]{{64}}", pinned)
    # The node itself gets it from the registry: while nobody looks, container and image go from its engine.
    container = stocked.docker("ps", "-q", "--filter", "label=devopsellence.environment=acme/pushed/production")
    tags = stocked.docker("image", "inspect", "-f", "{{range .RepoTags}}{{.}} {{end}}{{.Id}}", pinned).split()
    document = json.loads(stocked.devopsellence("dev", "status", "-o", "json").stdout)
    agent = next(int(process["pid"]) for process in document["processes"] if process["name"] == "agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        stocked.docker("rm", "-f", container)
        stocked.docker("image", "rm", "-f", *tags)
    finally:
        os.kill(agent, signal.SIGCONT)
    label = "label=devopsellence.environment=acme/pushed/production"
    until("its container is back", lambda: stocked.docker("ps", "-q", "--filter", label))
    until("it is as it should be", lambda: stocked.status(tmp_path)["services"][0]["settled"])
    assert app.fetch() == "one"
    assert app.pinned() == pinned
