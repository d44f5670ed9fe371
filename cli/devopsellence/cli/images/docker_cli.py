"""The ``docker`` command line: whatever context, login and BuildKit its user has set up is what a deploy uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from devopsellence.cli.output import CliError, NextAction

_GRACE: Final = 5.0


@dataclass(frozen=True)
class LocalImage:
    """An image of the engine. ``layers`` are the digests of its layers, the lowest first; ``size`` is in bytes;
    ``tagged_at`` is when it was last given a name here, as the engine writes it ("" where it does not say)."""

    id: str
    repo_digests: tuple[str, ...]
    tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    size: int = 0
    tagged_at: str = ""


@dataclass(frozen=True)
class CommandResult:
    """A command that ended. ``errors`` is what it wrote to stderr, "" where that went into ``output`` with the rest."""

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
    """Run ``command`` to its end, calling ``on_line`` for every line that it writes to either stream.

    Cancelling ends the command too. Raises CliError ``docker_missing`` when there is no such program.
    """
    async with _process(command, cwd, environ, asyncio.subprocess.STDOUT) as process:
        lines = await _lines(process, on_line)
        return CommandResult(await process.wait(), "".join(lines))


async def run_command(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    given: bytes = b"",
    into: IO[bytes] | None = None,
) -> CommandResult:
    """Run ``command`` to its end, its two streams apart; otherwise as :func:`stream`.

    ``given`` is its input; ``into`` is the file that its output goes to, instead of the answer.
    """
    pipe = asyncio.subprocess.PIPE
    stdin = pipe if given else asyncio.subprocess.DEVNULL
    async with _process(command, None, environ, pipe, stdin=stdin, stdout=into or pipe) as process:
        output, errors = await process.communicate(given or None)
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
            f"{command[0]} is not on PATH, and building and naming images needs it",
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
        )
    )
    try:
        # Cancelled in the middle of its start, it would run on without anyone knowing of it.
        yield await asyncio.shield(starting)
    finally:
        await _end(await starting)


async def _lines(process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> list[str]:
    lines: list[str] = []
    if process.stdout is None:
        return lines
    pending = ""
    # Not readline(): a build may print a line longer than its limit.
    while chunk := await process.stdout.read(65536):
        *whole, pending = (pending + chunk.decode(errors="replace")).splitlines(keepends=True) or [""]
        if pending.endswith(("\n", "\r")):
            whole, pending = [*whole, pending], ""
        for line in whole:
            lines.append(line)
            on_line(line.rstrip())
    return [*lines, pending] if pending else lines


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class DockerCli:
    """The ``docker`` command line, against the engine of its user or, with ``host``, against that one.

    Every method raises CliError ``docker_missing`` or ``docker_unavailable`` when it cannot even ask.
    """

    def __init__(self, host: str | None = None, *, config: Path | None = None) -> None:
        self._host = host
        self._environ = {"DOCKER_HOST": host} if host else {}
        if config is not None:
            self._environ["DOCKER_CONFIG"] = str(config)

    def configured(self, folder: Path) -> DockerCli:
        """The same engine, with logins and settings from ``folder`` instead of the user's own."""
        return DockerCli(self._host, config=folder)

    async def run(self, *arguments: str) -> CommandResult:
        """``docker arguments…``, whatever comes of it."""
        done = await run_command(["docker", *arguments], self._environ)
        if done.code != 0 and _no_engine(done.errors):
            raise engine_unavailable(done.errors)
        return done

    async def build(self, context: Path, arguments: Sequence[str], on_line: Callable[[str], None]) -> CommandResult:
        """``docker build arguments… .`` in ``context``."""
        command, environ = ["docker", "build", *arguments, "."], self._environ
        if not await self.has_buildx():
            # The engine's own builder, which leaves the container of a failed step behind unless told otherwise.
            command[2:2] = ["--force-rm"]
            environ = {**environ, "DOCKER_BUILDKIT": "0"}
        return await stream_command(command, cwd=context, environ=environ, on_line=on_line)

    async def platform(self) -> str:
        """What the engine runs, such as ``linux/amd64``."""
        done = await self.run("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
        if done.code != 0:
            raise engine_unavailable(done.errors)
        return done.output.strip()

    async def has_buildx(self) -> bool:
        """Whether the docker command line brings BuildKit's client with it."""
        return (await self.run("buildx", "version")).code == 0

    async def inspect_image(self, reference: str) -> LocalImage | None:
        """The engine's image of that name, id or digest; None when it has none.

        Raises:
            CliError: ``image_unreadable``: docker says something else than that there is none.
        """
        done = await self.run("image", "inspect", "--format", "{{json .}}", reference)
        if done.code != 0:
            if "no such image" in done.errors.lower():
                return None
            raise CliError("image_unreadable", f"docker image inspect {reference}: {last_line(done.errors)}")
        return _image(json.loads(done.output))

    async def named(self, repository: str) -> list[LocalImage]:
        """The engine's images that have a name in ``repository``, each once.

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
        """Write an archive of images into a file; "" when done, else why not."""
        done = await run_command(["docker", "save", *images], self._environ, into=into)
        if done.code != 0 and _no_engine(done.errors):
            raise engine_unavailable(done.errors)
        return "" if done.code == 0 else last_line(done.errors)

    async def login(self, server: str, username: str, password: str) -> str:
        """Log in to a registry; the password goes through a pipe. "" when done, else why not."""
        command = ["docker", "login", "--username", username, "--password-stdin", *([server] if server else [])]
        done = await run_command(command, self._environ, given=password.encode())
        if done.code != 0 and _no_engine(done.errors):
            raise engine_unavailable(done.errors)
        return "" if done.code == 0 else last_line(done.errors)

    async def push(self, name: str, on_line: Callable[[str], None]) -> CommandResult:
        """``docker push name``."""
        return await stream_command(["docker", "push", name], environ=self._environ, on_line=on_line)

    async def untag(self, name: str) -> str:
        """Take a name from an image, and the image with its last one; "" when done, else why not."""
        done = await self.run("image", "rm", name)
        return "" if done.code == 0 else last_line(done.errors)

    async def pull(self, reference: str) -> str:
        """Pull an image; "" when done, else why not."""
        done = await self.run("pull", "--quiet", reference)
        return "" if done.code == 0 else last_line(done.errors)

    async def tag(self, image: str, name: str) -> None:
        """Give an image a name."""
        done = await self.run("tag", image, name)
        if done.code != 0:
            raise CliError("tag_failed", f"docker tag {image} {name}: {last_line(done.errors)}")


def _image(found: Mapping[str, Any]) -> LocalImage:
    return LocalImage(
        id=str(found["Id"]),
        repo_digests=tuple(found.get("RepoDigests") or ()),
        tags=tuple(found.get("RepoTags") or ()),
        layers=tuple((found.get("RootFS") or {}).get("Layers") or ()),
        size=int(found.get("Size") or 0),
        tagged_at=str((found.get("Metadata") or {}).get("LastTagTime") or ""),
    )


def engine_unavailable(said: str) -> CliError:
    """The error for an engine that does not answer; ``said`` is what docker wrote."""
    return CliError(
        "docker_unavailable",
        f"the Docker Engine does not answer: {last_line(said)}",
        next_actions=[NextAction("see why", "docker version")],
    )


def _no_engine(said: str) -> bool:
    return "cannot connect to the docker daemon" in said.lower() or "permission denied while trying" in said.lower()


def last_line(said: str) -> str:
    """The last thing that docker ``said``, which is where the reason stands."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error response from daemon: ") if lines else "docker said nothing"
