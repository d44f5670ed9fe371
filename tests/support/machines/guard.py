"""Guard of a bed: ``python -m tests.support.machines.guard FOLDER GROUP``.

Makes the namespaces, prints the id of their first process, and waits for the end of input, which comes also if the
parent is killed. Then ends everything in the namespaces, and removes FOLDER, with the machines in it, and their control
groups.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from tests.support.until import until

_FIRST: Final = Path(__file__).with_name("first.sh")
_NEW_NAMESPACES: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_GROUPS: Final = Path("/sys/fs/cgroup")


def main(folder: Path, group: str) -> None:
    """Hold the namespaces until the end of input."""
    command = [*_NEW_NAMESPACES, "bash", "-c", _FIRST.read_text(), "first", str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() == "ready\n":
            (first,) = psutil.Process(holder.pid).children()
            sys.stdout.write(f"{first.pid}\n")
            sys.stdout.flush()
            sys.stdin.read()
    finally:
        # Its child, the first process, is killed with it.
        holder.kill()
        holder.wait()
        until("no control group of the machines is left", lambda: _remove_groups(group), seconds=30)
        # A command of the killed parent may still be writing there.
        until("the machines are removed", lambda: _remove(folder), seconds=60)


def _remove(folder: Path) -> bool:
    """Remove a folder; return False if something is left."""
    # Several times as fast as shutil: there are a hundred thousand files.
    return subprocess.run(["rm", "-rf", str(folder)], check=False).returncode == 0


def _remove_groups(name: str) -> bool:
    """Remove the control groups of a bed; return False while processes in one of them end."""
    for top in _GROUPS.glob(f"*/{name}"):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
    return not list(_GROUPS.glob(f"*/{name}"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
