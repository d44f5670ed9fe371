"""Files in memory, for code that wants paths: nothing is written to disk, and nothing is left after the process."""

from __future__ import annotations

import os
from pathlib import Path


def memory_file(name: str, text: str) -> Path:
    """Return the path of a new file in memory, closed with this process and not inherited by others."""
    descriptor = os.memfd_create(f"devopsellence-{name}")
    os.fchmod(descriptor, 0o600)
    content = text.encode()
    while content:
        content = content[os.write(descriptor, content) :]
    return Path(f"/proc/self/fd/{descriptor}")
