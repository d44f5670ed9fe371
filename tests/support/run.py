"""Run a command to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(
    command: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    timeout: float = 100,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` with ``stdin`` as input and captured output.

    ``environ`` None: the variables of this process.

    Raises:
        AssertionError: ``check``, and the command failed; with the output.
    """
    done = subprocess.run(
        command, env=environ, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
