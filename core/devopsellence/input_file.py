"""Bounded reading of files that a user names: configurations, certificates, passwords.

Such a path may be a pipe that nobody writes to, a device without an end, or a huge file. None of them may hang a
program or fill its memory.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path
from typing import BinaryIO, Final

# Longest silence of a pipe in seconds: a generator of the file may take a while, a missing one takes for ever.
PIPE_TIMEOUT: Final = 30.0
# Enough for chains of certificates, keys and passwords.
MAX_BYTES: Final = 1 << 20


def read(path: Path, max_bytes: int = MAX_BYTES, pipe_timeout: float = PIPE_TIMEOUT) -> bytes:
    """Return the content of a file or pipe.

    Raises:
        OSError: the file cannot be read, is larger than ``max_bytes``, or is a pipe that stays silent (TimeoutError).
    """
    try:
        content = read_up_to(path, max_bytes + 1, pipe_timeout)
    except TimeoutError as error:
        raise TimeoutError(errno.ETIMEDOUT, f"nothing was written for {pipe_timeout:g} s", str(path)) from error
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"is larger than {max_bytes >> 10} KiB", str(path))
    return content


def read_up_to(path: Path, count: int, pipe_timeout: float = PIPE_TIMEOUT) -> bytes:
    """Return at most ``count`` bytes of a file or pipe.

    Raises:
        TimeoutError: a pipe or device has no writer, or was silent for ``pipe_timeout`` seconds.
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as stream:
        return _read(stream, count, pipe_timeout)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the writer of a named pipe; reads wait as usual."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    return descriptor


def _read(stream: BinaryIO, count: int, pipe_timeout: float) -> bytes:
    waits = not stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    poll = select.poll()
    # The end of a pipe is reported as well, but only after a first writer.
    poll.register(stream.fileno(), select.POLLIN)
    content = b""
    while len(content) < count:
        if waits and not poll.poll(pipe_timeout * 1000):
            raise TimeoutError
        if not (data := stream.read(count - len(content))):
            break
        content += data
    return content
