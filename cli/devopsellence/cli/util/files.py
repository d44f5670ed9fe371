"""The state folder of devopsellence, and atomic replacement of files. Imports only the standard library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the state folder of devopsellence: ``DEVOPSELLENCE_HOME``, else a folder by the XDG specification."""
    if chosen := environ.get("DEVOPSELLENCE_HOME"):
        return Path(chosen).absolute()
    # The XDG base directory specification: a relative path in the variable is invalid and ignored.
    state = Path(environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "devopsellence"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """Replace ``path`` atomically: write a temporary file, sync, rename.

    The folder must exist; a process must not write the same path concurrently. ``sync`` False for data that need not
    survive a power cut.

    Raises:
        OSError: the write failed; ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # os.open's mode passes through the umask
            file.write(data)
            file.flush()
            if sync:
                os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
