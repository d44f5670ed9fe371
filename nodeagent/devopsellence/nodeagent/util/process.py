"""Protection of the agent's own process: no core dumps, no reading of its memory, enough file descriptors."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from typing import Final

#: File descriptors: more than the API's connections (``api.server``), which come from outside.
_FILES: Final = 65536
_PR_SET_DUMPABLE: Final = 4


def protect_memory() -> None:
    """Keep secrets in memory from disks and from other processes of the same user.

    prctl(2): a process that is not dumpable has no core dump, whatever the limit and the kernel's core pattern say, and
    no process without CAP_SYS_PTRACE can attach to it or read its memory. Files in its /proc folder belong to root
    then, but a process opens its own all the same.
    """
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_file_limit() -> None:
    """Raise the limit of open files as far as is allowed and needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
