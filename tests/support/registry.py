"""Registries of images on this machine, with a password and without."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.need import lack
from tests.support.ports import free_ports
from tests.support.until import until

USER = "ann"
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


@contextmanager
def serve_registry(
    folder: Path, *, auth: bool, inside: Callable[..., Sequence[str]] = lambda *command: command
) -> Iterator[str]:
    """Run a registry within the block; return the address. ``inside`` turns the command into that of another host."""
    if shutil.which("docker-registry") is None:
        lack("needs docker-registry on PATH (Debian: docker-registry)")
    folder.mkdir(exist_ok=True)
    port = free_ports(1)[0]
    (folder / "config.yml").write_text((_CONFIG + (_AUTH if auth else "")).format(folder=folder, port=port))
    (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
    with (folder / "log").open("wb") as log:
        command = inside("docker-registry", "serve", str(folder / "config.yml"))
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        if command[0] == "docker-registry":
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
