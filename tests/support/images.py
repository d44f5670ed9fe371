"""Images for the tests that run containers; no registry is needed."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.docker import docker
from tests.support.need import lack, need_docker
from tests.support.private import private_folder
from tests.support.run import run

IMAGE: Final = "devopsellence/test:small"
WEB_IMAGE: Final = "devopsellence/test:web"
_BUSYBOX: Final = Path("/bin/busybox")
_SERVICES: Final = Path(__file__).parents[2] / "deploy" / "images" / "services.sh"
_WEB: Final = Path(__file__).parent / "web"


@cache
def small_image() -> str:
    """Return the id (``sha256:…``) of a 2 MB image: busybox under all names in /bin, and /www/up to be served.

    Made from this machine's static busybox if missing; the image is kept.
    """
    need_docker()
    with _alone():
        present = subprocess.run(
            ["docker", "image", "inspect", "-f", "{{.Id}}", IMAGE], capture_output=True, text=True, check=False
        )
        if present.returncode == 0:
            return present.stdout.strip()
        if not _BUSYBOX.exists():
            lack("needs /bin/busybox (Debian: busybox-static)")
        imported = subprocess.run(["docker", "import", "-", IMAGE], input=_archive(), capture_output=True, check=True)
        return imported.stdout.decode().strip()


@cache
def service_images() -> tuple[str, ...]:
    """Return the names of the images that the examples use: a Debian with Python, Redis, memcached.

    Made like by ``make demo`` if missing, in half a minute; the images are kept.
    """
    need_docker()
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        lack("needs mmdebstrap and root, to make the images of the examples")
    with _alone():
        done = subprocess.run([str(_SERVICES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ("devopsellence/base:latest", "redis:7-alpine", "memcached:1.6-alpine")


@cache
def web_image() -> str:
    """Return the name of an image (35 MB) with a web server whose version is a variable (``web/server.py``). The image
    is kept.
    """
    service_images()
    with _alone():
        done = subprocess.run(
            ["docker", "build", "--quiet", "--tag", WEB_IMAGE, str(_WEB)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return WEB_IMAGE


@contextmanager
def new_web_image() -> Iterator[str]:
    """Yield the name of an image like :func:`web_image` with a new layer; removed at the end of the block."""
    name = f"devopsellence/test:web-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "new").write_bytes(os.urandom(1 << 20))
        (Path(folder) / "Dockerfile").write_text(f"FROM {web_image()}\nCOPY new /\n")
        subprocess.run(["docker", "build", "--quiet", "--tag", name, folder], check=True, capture_output=True)
    try:
        yield name
    finally:
        # With all its names: a deploy gives it another.
        inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
        image = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["docker", "rmi", "--force", image], check=True, capture_output=True)


#: Ids of the images built by :func:`build_image`.
_BUILT: Final[list[str]] = []


def build_image(*layers: bytes | int, lines: Sequence[str] = ()) -> str:
    """Build an image on top of the small one; return the id.

    Args:
        layers: a layer for each file, by content or by the number of random bytes.
        lines: further lines of the Dockerfile.
    """
    small_image()
    with tempfile.TemporaryDirectory() as folder:
        dockerfile = [f"FROM {IMAGE}"]
        for number, content in enumerate(layers):
            data = os.urandom(content) if isinstance(content, int) else content
            (Path(folder) / f"f{number}").write_bytes(data)
            dockerfile.append(f"COPY f{number} /f{number}")
        (Path(folder) / "Dockerfile").write_text("\n".join([*dockerfile, *lines]) + "\n")
        environ = {**os.environ, "DOCKER_BUILDKIT": "0"}
        # A step from the builder's cache may be an image that another process removes.
        with _alone():
            run(["docker", "build", "-q", "--iidfile", f"{folder}/id", folder], environ=environ)
        _BUILT.append((Path(folder) / "id").read_text().strip())
    return _BUILT[-1]


def remove_built_images() -> None:
    """Remove the images of :func:`build_image` from this machine's engine."""
    with _alone():
        for image in dict.fromkeys(_BUILT):
            docker("rmi", "-f", image, check=False)
    _BUILT.clear()


@contextmanager
def _alone() -> Iterator[None]:
    """Lock the making of images against other test processes."""
    with (private_folder() / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _archive() -> bytes:
    applets = subprocess.run([str(_BUSYBOX), "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _file(archive, "bin/busybox", _BUSYBOX.read_bytes(), 0o755)
        for applet in applets:
            if applet == "busybox":
                continue
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        _file(archive, "www/up", b"up\n", 0o644)
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder)
    return buffer.getvalue()


def _file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
