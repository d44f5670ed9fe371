"""Logins to registries, and the push of the app image, pinned by the registry's digest."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_exponential, wait_random

from devopsellence import input_file
from devopsellence.cli.images.docker_cli import CommandResult, DockerCli, last_line
from devopsellence.cli.images.pin import Pin
from devopsellence.cli.images.reference import parse_reference
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.store.reader import concurrently
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.temporary import MEMORY, temporary_folder
from devopsellence.registries import DOCKER_HUB

_ATTEMPTS: Final = 3
#: Settings copied from the user's docker configuration: those about the engine and its connection, no logins.
_KEPT: Final = ("currentContext", "proxies", "HttpHeaders")
_EVIDENCE_LINES: Final = 20


#: Name of Docker Hub in the logins of docker's configuration.
_HUB_SERVER: Final = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class PasswordLogin:
    """Login to the registry ``host``, with the password."""

    host: str
    username: str
    password: str = field(repr=False)


class RegistrySettings(Protocol):
    """Registry of the configuration, or recorded in a release."""

    @property
    def repository(self) -> str: ...
    @property
    def username(self) -> str: ...


async def push(docker: DockerCli, registry: RegistrySettings, password: str, image_id: str, output: Output) -> Pin:
    """Push a local image and return its pin; without ``password``, the user's ``docker login`` applies.

    Raises:
        CliError: ``registry_login_failed``, ``push_failed``; ``docker_missing``, ``docker_unavailable``.
    """
    name = f"{registry.repository}:{image_id.removeprefix('sha256:')[:12]}"
    await docker.tag(image_id, name)
    before = await _digests(docker, registry.repository, image_id)
    output.progress("deploy", f"pushing {name}", stage="push", image=name)
    if password:
        with _config() as folder:
            private = docker.configured(folder)
            await _login(
                private, PasswordLogin(parse_reference(registry.repository).domain, registry.username, password)
            )
            done = await _push(private, name, output)
    else:
        done = await _push(docker, name, output)
    if done.code != 0:
        raise _failed(name, done)
    digests = await _digests(docker, registry.repository, image_id)
    if not digests:
        raise CliError("push_failed", f"{name} was pushed, but Docker reports no digest for it")
    # An image pushed earlier may have further digests; the new digest certainly exists in the registry.
    pinned = next((digest for digest in digests if digest not in before), digests[-1])
    output.progress("deploy", f"pushed {name}", stage="pushed", image=name, pinned=pinned)
    return Pin(name, pinned)


async def check_logins(docker: DockerCli, logins: Sequence[PasswordLogin]) -> None:
    """Log in to each registry, and forget the logins.

    Raises:
        CliError: ``registry_login_failed`` with the registry's words.
    """

    async def check(login: PasswordLogin) -> None:
        with _config() as folder:
            await _login(docker.configured(folder), login)

    await concurrently(check(login) for login in logins)


@contextmanager
def logged_in(docker: DockerCli, logins: Sequence[PasswordLogin]) -> Iterator[DockerCli]:
    """Return a client with the user's docker configuration and further ``logins``, which are forgotten at the end."""
    if not logins:
        yield docker
        return
    with _config(logins) as folder:
        yield docker.configured(folder)


async def _login(docker: DockerCli, login: PasswordLogin) -> None:
    # Docker Hub has a separate address for logins, which is docker's default.
    problem = await docker.login("" if login.host == DOCKER_HUB else login.host, login.username, login.password)
    if problem:
        message = f"cannot log in to {login.host} as {login.username}: {problem}"
        fix = NextAction("set the password again", "devopsellence secret set <password_secret> --registry --stdin")
        raise CliError("registry_login_failed", message, next_actions=[fix])


async def _push(docker: DockerCli, name: str, output: Output) -> CommandResult:
    """Push with retries; docker does not push uploaded layers again, so a retry is cheap."""
    retrying = AsyncRetrying(
        retry=retry_if_result(lambda done: done.code != 0),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=0.5, max=5.0) + wait_random(0, 0.5),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else CommandResult(1, ""),
    )
    if not output.live:
        result: CommandResult = await retrying(docker.push, name, lambda _: None)
        return result
    from rich.text import Text

    console = output.console()
    with console.status(Text(f"pushing {name}")) as status:
        pushed: CommandResult = await retrying(
            docker.push, name, lambda line: status.update(Text(safe(line)[: max(10, console.width - 6)]))
        )
        return pushed


async def _digests(docker: DockerCli, repository: str, image_id: str) -> list[str]:
    """Return the digests of the image in the registry, as ``repository@digest``."""
    wanted = parse_reference(repository)
    image = await docker.inspect_image(image_id)
    references = [
        parse_reference(reference) for reference in (image.repo_digests if image else ()) if "<none>" not in reference
    ]
    return [f"{wanted.repository}@{reference.digest}" for reference in references if reference.same_repository(wanted)]


def _failed(name: str, done: CommandResult) -> CliError:
    lines = [safe(line.rstrip()) for line in done.output.splitlines() if line.strip()]
    finding = Finding("push_failed", "output of docker push:", evidence="\n".join(lines[-_EVIDENCE_LINES:]))
    fix = NextAction("try to push the image", f"docker push {name}")
    return CliError(
        "push_failed", f"{name} cannot be pushed: {last_line(done.output)}", findings=[finding], next_actions=[fix]
    )


def with_logins(config: Mapping[str, Any], logins: Sequence[PasswordLogin]) -> dict[str, Any]:
    """Return docker's configuration with ``logins`` added; they take precedence over those of the user. Pure."""
    servers = {_HUB_SERVER if login.host == DOCKER_HUB else login.host: login for login in logins}
    auths = {
        server: {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
        for server, login in servers.items()
    }
    # Without a helper of its own, docker would ask the user's credential store for the password.
    helpers = dict.fromkeys(servers, "")
    return {
        **config,
        "auths": {**_map(config.get("auths")), **auths},
        "credHelpers": {**_map(config.get("credHelpers")), **helpers},
    }


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@contextmanager
def _config(logins: Sequence[PasswordLogin] = ()) -> Iterator[Path]:
    """Create a temporary docker configuration: the user's settings, with ``logins`` beside the user's own.

    Without ``logins``, the user's own are left out. In memory (``/dev/shm``) if possible, because passwords are stored
    in this folder.
    """
    home = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    with temporary_folder(MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK | os.X_OK) else None) as folder:
        user_config: Any = {}
        with suppress(OSError, ValueError):
            user_config = json.loads(input_file.read(home / "config.json"))
        if not isinstance(user_config, dict):
            user_config = {}
        settings = (
            with_logins(user_config, logins) if logins else {k: user_config[k] for k in _KEPT if k in user_config}
        )
        (folder / "config.json").touch(mode=0o600)
        (folder / "config.json").write_text(json.dumps(settings))
        for subfolder in ("contexts", "cli-plugins"):
            if (home / subfolder).is_dir():
                (folder / subfolder).symlink_to((home / subfolder).absolute())
        yield folder
