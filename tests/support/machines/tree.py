"""File system of the machines: made once on this machine, and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.support.need import lack
from tests.support.private import private_folder
from tests.support.project import PROJECT

_CACHE: Final = Path("/var/cache")
_KEEP_SECONDS: Final = 24 * 3600.0
_SCRIPT: Final = PROJECT / "deploy/images/machine.sh"
_INPUTS: Final = (_SCRIPT, _SCRIPT.with_name("debian.sh"))
_PROGRAMS: Final = ("systemd-nspawn", "mmdebstrap", "ssh", "ssh-keygen", "ip", "nsenter", "unshare", "chroot", "curl")


def need_machines() -> None:
    """Require root, the programs for whole machines, and control groups of version 1."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        lack(f"needs {', '.join(missing)} on PATH")
    if os.geteuid() != 0:
        lack("needs root, to run whole machines")
    if not Path("/sys/fs/cgroup/systemd").is_dir():
        lack("needs control groups of version 1, with the hierarchy of systemd")


def machine_tree(_: Path | None = None) -> Sequence[Path]:
    """Return the file system as a single layer, made in a minute and a half if missing. It is read, never changed."""
    need_machines()

    def build(folder: Path) -> None:
        done = subprocess.run([str(_SCRIPT), str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return [kept("machine", [path.read_bytes() for path in _INPUTS], build)]


def kept(name: str, inputs: Sequence[bytes], build: Callable[[Path], None]) -> Path:
    """Return a folder made by ``build`` from ``inputs``, another when they change; unused ones go after a day."""
    cache_folder = private_folder(_CACHE)
    folder = cache_folder / f"{name}-{hashlib.sha256(b''.join(inputs)).hexdigest()[:12]}"
    with (cache_folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            part = cache_folder / f"{name}-part"
            shutil.rmtree(part, ignore_errors=True)
            build(part)
            part.rename(folder)
        os.utime(folder)
        for former in cache_folder.glob(f"{name}-*"):
            # Younger ones may be in use, by the tests of another copy of the project.
            if time.time() - former.stat().st_mtime > _KEEP_SECONDS:
                shutil.rmtree(former)
    return folder
