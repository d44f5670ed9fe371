"""Build of the app image with the ``docker`` command."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from devopsellence.cli.images.docker_cli import CommandResult, DockerCli
from devopsellence.cli.images.pin import Pin
from devopsellence.cli.output import CliError, Finding, Output
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.temporary import full, says_full, temporary_folder

if TYPE_CHECKING:
    from devopsellence.config import BuildConfig
    from devopsellence.store.keys import EnvironmentRef

_EVIDENCE_LINES = 60


def image_repository(ref: EnvironmentRef) -> str:
    """Return the local repository of a project's app images: ``devopsellence/<project>-<hash>``.

    Docker requires lower case; the hash distinguishes ``Shop`` from ``shop``.
    """
    name = re.sub(r"[^a-z0-9]+", "-", ref.project.lower()).strip("-") or "app"
    digest = hashlib.sha256(f"{ref.organization}/{ref.project}".encode()).hexdigest()
    return f"devopsellence/{name}-{digest[:6]}"


def image_name(ref: EnvironmentRef, image_id: str) -> str:
    """Return the name of a built image, derived from the image id.

    The name protects the image from ``docker image prune`` and is therefore set before the release is written.
    """
    return f"{image_repository(ref)}:{image_id.removeprefix('sha256:')[:12]}"


def platform_flag(platforms: list[str], engine_platform: str) -> list[str]:
    """Return ``--platform`` unless the platform of the engine is among the configured ones."""
    return [] if not platforms or engine_platform in platforms else [f"--platform={platforms[0]}"]


async def build(docker: DockerCli, settings: BuildConfig, ref: EnvironmentRef, output: Output) -> Pin:
    """Build, tag and pin the app image.

    Raises:
        CliError: ``build_failed`` with the end of the build's output; ``dockerfile_missing``, ``docker_missing``,
            ``docker_unavailable``, ``temporary_files``.
    """
    if not (settings.context / settings.dockerfile).is_file():
        message = f"no {settings.dockerfile} in {settings.context} (build.dockerfile and build.context)"
        raise CliError("dockerfile_missing", message)
    flags = platform_flag(list(settings.platforms), await docker.platform())
    output.progress("deploy", f"building the app image from {settings.context}", stage="build")
    started = time.monotonic()
    with temporary_folder() as folder:
        id_file = folder / "image"
        arguments = [f"--iidfile={id_file}", f"--file={settings.dockerfile}", *flags]
        with _Spinner(output) as spinner:
            done = await docker.build(settings.context, arguments, spinner.show)
        if done.code != 0:
            if says_full(done.output) and str(id_file) in done.output:
                raise full(folder)
            raise _failed(done)
        image_id = id_file.read_text().strip()
    name = image_name(ref, image_id)
    await docker.tag(image_id, name)
    seconds = time.monotonic() - started
    output.progress("deploy", f"built {name} in {seconds:.1f}s", stage="built", image=name, pinned=image_id)
    return Pin(name, image_id)


def _failed(done: CommandResult) -> CliError:
    lines = [safe(line.rstrip()) for line in done.output.splitlines()]
    if lines and lines[0].startswith("DEPRECATED"):
        # The deprecation notice of docker build, up to the first empty line, is unrelated to the failure.
        lines = lines[lines.index("") :] if "" in lines else lines
    shown = [line for line in lines if line][-_EVIDENCE_LINES:]
    finding = Finding("build_failed", "output of docker build:", evidence="\n".join(shown))
    return CliError("build_failed", f"docker build failed with exit code {done.code}", findings=[finding])


class _Spinner:
    """Spinner with the latest output line of the build; does nothing without a terminal."""

    def __init__(self, output: Output) -> None:
        self.show: Callable[[str], None] = lambda _: None
        self._output = output
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> _Spinner:
        if self._output.live:
            from rich.text import Text

            console = self._output.console()
            status = console.status(Text("building"))
            status.start()
            self.show = lambda line: status.update(Text(safe(line)[: max(10, console.width - 6)]))
            self._stop = status.stop
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
