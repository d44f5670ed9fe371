"""Runner of the ``docker`` command, with the context, logins and BuildKit of the user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import posixpath
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from devopsellence.cli.output import CliError, NextAction

_GRACE: Final = 5.0
# buildx runs git in the context, with what the repository's configuration names, for provenance that no release keeps.
_NO_GIT: Final = {"BUILDX_GIT_INFO": "false", "BUILDX_GIT_CHECK_DIRTY": "false"}


@dataclass(frozen=True)
class LocalImage:
    """Image on the local Docker Engine.

    ``layers`` are digests, lowest first; ``size`` is in bytes; ``tagged_at`` is the time of the last tag as printed by
    docker, "" if not known; ``volumes`` are the paths of the volumes that the image declares (``VOLUME``), sorted.
    """

    id: str
    repo_digests: tuple[str, ...]
    tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    size: int = 0
    tagged_at: str = ""
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command; ``errors`` is stderr, "" if merged into ``output``."""

    code: int
    output: str
    errors: str = ""


async def stream_command(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda _: None,
) -> CommandResult:
    """Run ``command`` and call ``on_line`` for every line of stdout and stderr.

    Cancelling terminates the command. Raises CliError ``docker_missing`` if the program is not installed.
    """
    async with _process(command, cwd, environ, asyncio.subprocess.STDOUT) as process:
        lines = await _lines(process, on_line)
        return CommandResult(await process.wait(), "".join(lines))


async def run_command(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    stdin_data: bytes = b"",
    into: IO[bytes] | None = None,
) -> CommandResult:
    """Run ``command`` with stdout and stderr separate; else as :func:`stream_command`.

    ``stdin_data`` is the input; ``into`` is a file for stdout, which is then not in the result.
    """
    pipe = asyncio.subprocess.PIPE
    stdin = pipe if stdin_data else asyncio.subprocess.DEVNULL
    async with _process(command, None, environ, pipe, stdin=stdin, stdout=into or pipe) as process:
        output, errors = await process.communicate(stdin_data or None)
        return CommandResult(
            await process.wait(), (output or b"").decode(errors="replace"), errors.decode(errors="replace")
        )


@contextlib.asynccontextmanager
async def _process(
    command: Sequence[str],
    cwd: Path | None,
    environ: Mapping[str, str] | None,
    stderr: int,
    *,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int | IO[bytes] = asyncio.subprocess.PIPE,
) -> AsyncIterator[asyncio.subprocess.Process]:
    if shutil.which(command[0]) is None:
        raise CliError(
            "docker_missing",
            f"{command[0]} is not on PATH; it is needed to build and tag images",
            next_actions=[NextAction("see what else is missing", "devopsellence doctor")],
        )
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            # docker build runs a plugin, which some versions of docker leave running when they are terminated.
            process_group=0,
        )
    )
    try:
        # Shielded: a process cancelled during its start would keep running unnoticed.
        yield await asyncio.shield(starting)
    finally:
        await _end(await starting)


async def _lines(process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> list[str]:
    lines: list[str] = []
    if process.stdout is None:
        return lines
    pending = ""
    # Not readline(): a build may print a line longer than the limit of readline.
    while chunk := await process.stdout.read(65536):
        *whole, pending = (pending + chunk.decode(errors="replace")).splitlines(keepends=True) or [""]
        if pending.endswith(("\n", "\r")):
            whole, pending = [*whole, pending], ""
        for line in whole:
            lines.append(line)
            on_line(line.rstrip())
    return [*lines, pending] if pending else lines


async def _end(process: asyncio.subprocess.Process) -> None:
    """Terminate the process and its children."""
    if process.returncode is not None:
        return
    _send(process, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except TimeoutError:
        _send(process, signal.SIGKILL)
        await process.wait()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to the process group led by ``process``."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class DockerCli:
    """Client that runs the ``docker`` command, for the engine of the user or for ``host``.

    Every method raises CliError ``docker_missing`` or ``docker_unavailable`` if docker cannot be asked.
    """

    def __init__(self, host: str | None = None, *, config: Path | None = None) -> None:
        self._host = host
        self._environ = {"DOCKER_HOST": host} if host else {}
        if config is not None:
            self._environ["DOCKER_CONFIG"] = str(config)

    def configured(self, folder: Path) -> DockerCli:
        """Return a client for the same engine with logins and settings from ``folder``."""
        return DockerCli(self._host, config=folder)

    async def run(self, *arguments: str) -> CommandResult:
        """Run ``docker arguments…`` and return the result, also of a failed command."""
        done = await run_command(["docker", *arguments], self._environ)
        if done.code != 0 and _no_engine(done.errors):
            raise engine_unavailable(done.errors)
        return done

    async def build(self, context: Path, arguments: Sequence[str], on_line: Callable[[str], None]) -> CommandResult:
        """Run ``docker build arguments… .`` in ``context``."""
        command, environ = ["docker", "build", *arguments, "."], {**self._environ, **_NO_GIT}
        if not await self.has_buildx():
            # The legacy builder leaves the container of a failed step behind without this flag.
            command[2:2] = ["--force-rm"]
            environ = {**environ, "DOCKER_BUILDKIT": "0"}
        return await stream_command(command, cwd=context, environ=environ, on_line=on_line)

    async def platform(self) -> str:
        """Return the platform of the engine, such as ``linux/amd64``."""
        done = await self.run("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
        if done.code != 0:
            raise engine_unavailable(done.errors)
        return done.output.strip()

    async def has_buildx(self) -> bool:
        """Return True if the buildx plugin is installed."""
        return (await self.run("buildx", "version")).code == 0

    async def inspect_image(self, reference: str) -> LocalImage | None:
        """Return the local image of a name, id or digest; None if there is no such image.

        Raises:
            CliError: ``image_unreadable``: docker failed for another reason.
        """
        done = await self.run("image", "inspect", "--format", "{{json .}}", reference)
        if done.code != 0:
            if "no such image" in done.errors.lower():
                return None
            raise CliError("image_unreadable", f"docker image inspect {reference}: {last_line(done.errors)}")
        return _image(json.loads(done.output))

    async def named(self, repository: str) -> list[LocalImage]:
        """Return the local images tagged in ``repository``, without duplicates.

        Raises:
            CliError: ``image_unreadable``.
        """
        listed = await self.run("image", "ls", "--quiet", "--no-trunc", repository)
        ids = list(dict.fromkeys(listed.output.split()))
        if listed.code == 0 and not ids:
            return []
        done = await self.run("image", "inspect", "--format", "{{json .}}", *ids) if ids else listed
        if done.code != 0:
            raise CliError("image_unreadable", f"docker image ls {repository}: {last_line(done.errors)}")
        return [_image(json.loads(line)) for line in done.output.splitlines()]

    async def save(self, images: Sequence[str], into: IO[bytes]) -> str:
        """Write an archive of images into a file; return "" or the error of docker."""
        done = await run_command(["docker", "save", *images], self._environ, into=into)
        if done.code != 0 and _no_engine(done.errors):
            raise engine_unavailable(done.errors)
        return "" if done.code == 0 else last_line(done.errors)

    async def login(self, server: str, username: str, password: str) -> str:
        """Log in to a registry, with the password through a pipe; return "" or the error of docker."""
        command = ["docker", "login", "--username", username, "--password-stdin", *([server] if server else [])]
        done = await run_command(command, self._environ, stdin_data=password.encode())
        if done.code != 0 and _no_engine(done.errors):
            raise engine_unavailable(done.errors)
        return "" if done.code == 0 else last_line(done.errors)

    async def push(self, name: str, on_line: Callable[[str], None]) -> CommandResult:
        """Run ``docker push name``."""
        return await stream_command(["docker", "push", name], environ=self._environ, on_line=on_line)

    async def untag(self, name: str) -> str:
        """Remove a tag, and the image with its last tag; return "" or the error of docker."""
        done = await self.run("image", "rm", name)
        return "" if done.code == 0 else last_line(done.errors)

    async def pull(self, reference: str) -> str:
        """Pull an image; return "" or the error of docker."""
        done = await self.run("pull", "--quiet", reference)
        return "" if done.code == 0 else last_line(done.errors)

    async def tag(self, image: str, name: str) -> None:
        """Tag an image."""
        done = await self.run("tag", image, name)
        if done.code != 0:
            raise CliError("tag_failed", f"docker tag {image} {name}: {last_line(done.errors)}")


def _image(document: Mapping[str, Any]) -> LocalImage:
    declared = (document.get("Config") or {}).get("Volumes") or {}
    return LocalImage(
        id=str(document["Id"]),
        repo_digests=tuple(document.get("RepoDigests") or ()),
        tags=tuple(document.get("RepoTags") or ()),
        layers=tuple((document.get("RootFS") or {}).get("Layers") or ()),
        size=int(document.get("Size") or 0),
        tagged_at=str((document.get("Metadata") or {}).get("LastTagTime") or ""),
        volumes=tuple(sorted({posixpath.normpath(path) for path in declared if path.startswith("/")} - {"/"})),
    )


def engine_unavailable(stderr: str) -> CliError:
    """Return the error for an unreachable engine; ``stderr`` is the output of docker."""
    return CliError(
        "docker_unavailable",
        f"cannot reach the Docker Engine: {last_line(stderr)}",
        next_actions=[NextAction("see why", "docker version")],
    )


def _no_engine(stderr: str) -> bool:
    return "cannot connect to the docker daemon" in stderr.lower() or "permission denied while trying" in stderr.lower()


def last_line(stderr: str) -> str:
    """Return the last line of ``stderr``, which holds docker's reason."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error response from daemon: ") if lines else "docker printed no reason"
