"""The app image through a real registry on this machine, with a password and without."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Registry
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.images.registry import push
from devopsellence.cli.output import CliError
from tests.integration.images.image_node import BUILDER, RecordingOutput
from tests.support.docker import docker
from tests.support.images import build_image
from tests.support.need import lack
from tests.support.ports import free_ports
from tests.support.until import until

PASSWORD = "open sesame"
#: Of that password, as htpasswd writes it.
_BCRYPT = "$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW"
_CONFIG = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: {folder}/data
http:
  addr: 127.0.0.1:{port}
log:
  level: error
"""
_AUTH = """\
auth:
  htpasswd:
    realm: test
    path: {folder}/htpasswd
"""


def serve(folder: Path, *, auth: bool) -> Iterator[str]:
    """Run a registry inside the iteration; yield the address."""
    if shutil.which("docker-registry") is None:
        lack("needs docker-registry on PATH (Debian: docker-registry)")
    port = free_ports(1)[0]
    (folder / "config.yml").write_text((_CONFIG + (_AUTH if auth else "")).format(folder=folder, port=port))
    (folder / "htpasswd").write_text(f"ann:{_BCRYPT}\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        until(f"the registry answers ({folder}/log)", lambda: _answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False
    return True


@pytest.fixture
def open_registry(tmp_path: Path) -> Iterator[str]:
    yield from serve(tmp_path, auth=False)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Registry with a password."""
    yield from serve(tmp_path, auth=True)


@pytest.fixture
def image() -> Iterator[str]:
    built = build_image(b"through a registry\n")
    yield built
    names = docker(
        "image",
        "inspect",
        "-f",
        "{{range .RepoTags}}{{.}} {{end}}{{range .RepoDigests}}{{.}} {{end}}",
        built,
        check=False,
    )
    for name in names.split():
        docker("rmi", name, check=False)


def pulled(reference: str) -> str:
    """Pull a missing reference with the engine; return the id."""
    docker("pull", "-q", reference)
    return docker("image", "inspect", "-f", "{{.Id}}", reference)


async def test_image_is_pushed_and_pinned_by_digest(open_registry: str, image: str) -> None:
    output = RecordingOutput()
    repository = f"{open_registry}/acme/shop"
    pin = await push(BUILDER, Registry(repository=repository), "", image, output)
    assert pin.reference == f"{repository}:{image[7:19]}"
    assert pin.pinned.startswith(f"{repository}@sha256:")
    assert [data["stage"] for _, data in output.messages] == ["push", "pushed"]
    docker("rmi", pin.reference, pin.pinned, check=False)
    assert pulled(pin.pinned) == image
    # Once more is no other image.
    assert await push(BUILDER, Registry(repository=repository), "", image, output) == pin


async def test_registry_password_goes_to_registry_only(
    registry: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "contexts").mkdir(parents=True)
    (home / "config.json").write_text(json.dumps({"auths": {"elsewhere.example": {"auth": "eDp5"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    commands = tmp_path / "commands"
    _spy(tmp_path / "bin", commands, monkeypatch)
    output = RecordingOutput()
    pin = await push(DockerCli(), Registry(repository=f"{registry}/shop", username="ann"), PASSWORD, image, output)
    assert pin.pinned.startswith(f"{registry}/shop@sha256:")
    text = commands.read_text()
    assert "login" in text
    assert "push" in text
    assert PASSWORD not in text
    assert PASSWORD not in str(output.messages)
    assert json.loads((home / "config.json").read_text()) == {"auths": {"elsewhere.example": {"auth": "eDp5"}}}
    assert left_behind() == []


def left_behind() -> list[Path]:
    """Return the folders that hold a registry login."""
    return list(Path("/dev/shm").glob("devopsellence-*"))


def _spy(folder: Path, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a ``docker`` on PATH that records its arguments and runs the real command."""
    folder.mkdir()
    real = shutil.which("docker")
    script = folder / "docker"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {commands}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


async def test_wrong_registry_password_is_reported_without_password(registry: str, image: str) -> None:
    with pytest.raises(CliError) as failed:
        await push(
            BUILDER, Registry(repository=f"{registry}/shop", username="ann"), "wrong-guess", image, RecordingOutput()
        )
    assert failed.value.code == "registry_login_failed"
    assert "wrong-guess" not in failed.value.text()
    assert "ann" in failed.value.message


async def test_unreachable_registry_is_reported(image: str) -> None:
    with pytest.raises(CliError) as failed:
        await push(BUILDER, Registry(repository="127.0.0.1:1/shop"), "", image, RecordingOutput())
    assert failed.value.code == "push_failed"
    assert "127.0.0.1:1/shop" in failed.value.message
