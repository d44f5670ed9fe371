"""The app image through a registry: named there, pushed, and pinned by the digest that the registry knows it by."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_exponential, wait_random

from devopsellence.cli.images.docker_cli import CommandResult, DockerCli, last_line
from devopsellence.cli.images.pin import Pin
from devopsellence.cli.images.reference import parse_reference
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.util.text import safe

_ATTEMPTS: Final = 3
#: What of the user's settings is not a login: which engine is meant, and how it is reached.
_KEPT: Final = ("currentContext", "proxies", "HttpHeaders")
_EVIDENCE_LINES: Final = 20


class RegistrySettings(Protocol):
    """As it is configured, or recorded in a release."""

    @property
    def repository(self) -> str: ...
    @property
    def username(self) -> str: ...


async def push(docker: DockerCli, registry: RegistrySettings, password: str, image_id: str, output: Output) -> Pin:
    """Push an image of the engine and pin it. Without a ``password`` the user's own ``docker login`` is what counts.

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
            await _login(private, registry, password)
            done = await _push(private, name, output)
    else:
        done = await _push(docker, name, output)
    if done.code != 0:
        raise _failed(name, done)
    digests = await _digests(docker, registry.repository, image_id)
    if not digests:
        raise CliError("push_failed", f"{name} was pushed, but the engine does not know its digest there")
    # The same image may have been pushed before as another manifest; the one that has just come is there for sure.
    pinned = next((digest for digest in digests if digest not in before), digests[-1])
    output.progress("deploy", f"pushed {name}", stage="pushed", image=name, pinned=pinned)
    return Pin(name, pinned)


async def _login(docker: DockerCli, registry: RegistrySettings, password: str) -> None:
    domain = parse_reference(registry.repository).domain
    # Docker's own registry has an address of its own for logins, which is the default.
    problem = await docker.login("" if domain == "docker.io" else domain, registry.username, password)
    if problem:
        message = f"cannot log in to {domain} as {registry.username}: {problem}"
        mend = NextAction("set the password anew", "devopsellence secret set <password_secret> --registry --stdin")
        raise CliError("registry_login_failed", message, next_actions=[mend])


async def _push(docker: DockerCli, name: str, output: Output) -> CommandResult:
    """Push; layers that have arrived are not sent again, so trying again costs little."""
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
    """What the engine knows the image by in the registry, as ``repository@digest``."""
    wanted = parse_reference(repository)
    image = await docker.inspect_image(image_id)
    found = [parse_reference(each) for each in (image.repo_digests if image else ()) if "<none>" not in each]
    return [f"{wanted.repository}@{each.digest}" for each in found if each.same_repository(wanted)]


def _failed(name: str, done: CommandResult) -> CliError:
    lines = [safe(line.rstrip()) for line in done.output.splitlines() if line.strip()]
    finding = Finding("push_failed", "what docker push said:", evidence="\n".join(lines[-_EVIDENCE_LINES:]))
    mend = NextAction("try it", f"docker push {name}")
    return CliError(
        "push_failed", f"{name} cannot be pushed: {last_line(done.output)}", findings=[finding], next_actions=[mend]
    )


@contextmanager
def _config() -> Iterator[Path]:
    """A folder for docker's settings with the user's own but for logins; in memory where there is such a place, because
    docker writes the password there."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it is made for us alone
    home = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="devopsellence-", dir=where) as made:
        folder = Path(made)
        theirs: Any = {}
        with suppress(OSError, ValueError):
            theirs = json.loads((home / "config.json").read_bytes())
        kept = {key: theirs[key] for key in _KEPT if key in theirs} if isinstance(theirs, dict) else {}
        (folder / "config.json").write_text(json.dumps(kept))
        (folder / "config.json").chmod(0o600)
        for name in ("contexts", "cli-plugins"):
            if (home / name).is_dir():
                (folder / name).symlink_to((home / name).absolute())
        yield folder
