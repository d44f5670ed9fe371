"""The containerd-shim of a container, stopped and continued by signal: the engine then answers nothing about it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.need import lack


@contextmanager
def stopped_shim(container: str) -> Iterator[int]:
    """Stop the shim of a container (full id) within the block; the shim's pid. Skips the test without root."""
    if os.geteuid() != 0:
        lack("needs root, to stop a containerd-shim")
    pid = _shim(container)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def _shim(container: str) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containerd-shim" in words[0] and container.encode() in words:
            return int(folder.name)
    raise AssertionError(f"container {container} has no containerd-shim on this machine")
