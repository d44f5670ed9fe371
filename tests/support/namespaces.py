"""Holder of the namespaces of a host: ``unshare --net --mount python -m tests.support.namespaces FOLDER``.

Prints ``ready`` and waits for the end of input, which comes also if the parent is killed. Then ends all processes in
the namespaces and removes FOLDER; with the holder the namespaces end, and the kernel removes the mounts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.until import until

_HERE = {name: Path("/proc/self/ns", name).readlink() for name in ("net", "mnt")}


def main(folder: Path) -> None:
    if not _are_own():
        # Whatever runs on this machine would be taken for its own.
        raise SystemExit("tests.support.namespaces: only in namespaces of its own, made by 'unshare --net --mount'")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Every mount was copied in here. Those of containers elsewhere would keep alive what their engines remove.
    _unmount(lambda point, kind: kind in ("overlay", "nsfs") and point != "/")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    until("nothing is left in the namespaces", lambda: not _kill(), seconds=30)
    _unmount(lambda point, _: point.startswith(f"{folder}/"))
    shutil.rmtree(folder)


def _are_own() -> bool:
    """Return True if the parent process is in neither of the namespaces."""
    return all(Path(f"/proc/{os.getppid()}/ns/{name}").readlink() != ours for name, ours in _HERE.items())


def _unmount(which: Callable[[str, str], bool]) -> None:
    """Unmount the mounts for which ``which`` (mount point, file system type) holds."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([point for _, point, kind, *_ in mounts if which(point, kind)]):
        # Who mounted it may have unmounted it by now.
        subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)


def _kill() -> bool:
    """Kill all processes left here; return True if there were any.

    Containers have other namespaces, but parents here.
    """
    here = [process for process in psutil.process_iter() if process.pid != os.getpid() and _is_here(process)]
    remaining = {*here, *(below for process in here for below in _descendants(process))}
    for process in remaining:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(remaining)


def _is_here(process: psutil.Process) -> bool:
    """Return True if the process shares a namespace with this process."""
    try:
        return any(Path(f"/proc/{process.pid}/ns/{name}").readlink() == ours for name, ours in _HERE.items())
    except OSError:  # It has ended, or is not ours to look at.
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
