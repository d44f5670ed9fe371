"""Images from a private registry that is not the registry of the app image: build, pull by the CLI and by the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import Host
from tests.support.images import small_image
from tests.support.need import need_docker
from tests.support.registry import PASSWORD, USER, serve_registry
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)

CONFIG = """\
schema_version: 1
organization: acme
project: registries
services:
  jobs:
    command: [/bin/sleep, "100000"]
    stop_grace_period: 0s
  search:
    image: {registry}/search:1
    command: [/bin/sleep, "100000"]
    stop_grace_period: 0s
registries:
  {registry}: {{username: ann, password_secret: SEARCH_PASSWORD}}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    need_docker()
    image = small_image()
    with Host(tmp_path_factory.mktemp("host")) as machine:
        machine.docker("tag", machine.load_image(image), "small:test")
        machine.devopsellence("dev", "up")
        yield machine


@pytest.fixture(scope="module")
def registry(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Private registry on the host, with the images ``base`` and ``search``, which the engine does not have."""
    with serve_registry(tmp_path_factory.mktemp("registry"), auth=True, inside=host.command) as address:
        login = ["docker", "login", "--username", USER, "--password-stdin", address]
        until("the registry takes a login", lambda: host.run(*login, stdin=PASSWORD, check=False).returncode == 0)
        for name in ("base", "search"):
            host.docker("tag", "small:test", f"{address}/{name}:1")
            host.docker("push", f"{address}/{name}:1")
        host.docker("logout", address)
        forget_images(host, address)
        yield address


def forget_images(host: Host, address: str) -> None:
    for reference in host.docker(
        "image", "ls", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}"
    ).splitlines():
        repository, tag, digest = reference.split()
        if repository.startswith(address):
            name = f"{repository}:{tag}" if tag != "<none>" else f"{repository}@{digest}"
            host.run("docker", "rmi", "--force", name, check=False)


def test_private_images_are_built_from_and_pulled_with_the_registrys_login(
    host: Host, registry: str, tmp_path: Path
) -> None:
    (tmp_path / "devopsellence.yml").write_text(CONFIG.format(registry=registry))
    (tmp_path / "Dockerfile").write_text(f"FROM {registry}/base:1\nENV X=1\n")

    def error(*arguments: str) -> dict[str, str]:
        done = host.devopsellence(*arguments, "-o", "json", cwd=tmp_path, check=False)
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])["error"]
        return found

    def set_password(value: str) -> None:
        secret = ("secret", "set", "SEARCH_PASSWORD", "--registry", "--stdin")
        host.devopsellence(*secret, cwd=tmp_path, stdin=value)

    assert error("deploy")["code"] == "missing_secret"
    set_password("wrong")
    refused = error("deploy")
    assert refused["code"] == "registry_login_failed"
    assert f"cannot log in to {registry} as ann: " in refused["message"]
    assert "401 Unauthorized" in refused["message"]
    assert json.loads(host.devopsellence("release", "list", "-o", "json", cwd=tmp_path).stdout)["releases"] == []
    set_password(PASSWORD)
    host.devopsellence("deploy", cwd=tmp_path)

    # The agent pulls by itself what its engine has lost.
    def search() -> list[str]:
        label = "label=devopsellence.service=search"
        return host.docker("ps", "-q", "--no-trunc", "--filter", label).split()

    (before,) = search()
    forget_images(host, registry)
    host.run("docker", "rm", "--force", before)
    forget_images(host, registry)
    until("the agent has pulled and started it again", lambda: [name for name in search() if name != before])
    assert PASSWORD not in host.run("sh", "-c", 'cat "$DEVOPSELLENCE_HOME"/dev/logs/*.log').stdout
