"""The app image through a real registry on this machine, with a password and without."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Registry
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.images.registry import PasswordLogin, check_logins, logged_in, push
from devopsellence.cli.output import CliError
from tests.integration.images.image_node import BUILDER, RecordingOutput
from tests.support.docker import docker
from tests.support.images import build_image
from tests.support.registry import PASSWORD, USER, serve_registry


@pytest.fixture
def open_registry(tmp_path: Path) -> Iterator[str]:
    with serve_registry(tmp_path, auth=False) as address:
        yield address


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Registry with a password."""
    with serve_registry(tmp_path, auth=True) as address:
        yield address


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
    """Return the folders of this process that hold a registry login; those of other processes may come and go."""
    found = []
    for lock in Path("/dev/shm").glob("devopsellence-*/owner.lock"):
        with suppress(FileNotFoundError):
            if lock.read_text() == f"{os.getpid()}\n":
                found.append(lock.parent)
    return found


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


async def test_private_image_is_pulled_and_built_from_with_a_login(
    registry: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-logins"))
    pin = await push(
        DockerCli(), Registry(repository=f"{registry}/base", username=USER), PASSWORD, image, RecordingOutput()
    )
    docker("rmi", pin.reference, pin.pinned, check=False)
    (tmp_path / "Dockerfile").write_text(f"FROM {pin.reference}\n")
    assert await DockerCli().pull(pin.reference) != ""
    with logged_in(DockerCli(), [PasswordLogin(registry, USER, PASSWORD)]) as client:
        assert await client.pull(pin.reference) == ""
        docker("rmi", pin.reference, pin.pinned, check=False)
        built = await client.build(tmp_path, ["--quiet"], lambda _: None)
        assert built.code == 0, built.output
    docker("rmi", built.output.split()[-1], check=False)
    assert left_behind() == []


async def test_wrong_password_of_any_registry_is_reported_with_its_words(registry: str) -> None:
    await check_logins(BUILDER, [PasswordLogin(registry, USER, PASSWORD)])
    with pytest.raises(CliError) as failed:
        await check_logins(
            BUILDER, [PasswordLogin(registry, USER, PASSWORD), PasswordLogin(registry, "bob", "wrong-guess")]
        )
    assert failed.value.code == "registry_login_failed"
    assert f"cannot log in to {registry} as bob: " in failed.value.message
    assert "401 Unauthorized" in failed.value.message
    assert "wrong-guess" not in failed.value.text()
    assert left_behind() == []
