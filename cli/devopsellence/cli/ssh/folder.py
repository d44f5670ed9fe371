"""Folder of the sockets: private, and with a path that is short enough for a socket's name.

Cheap to import, because a target needs no more than a path.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.ssh.host import SshHost
from devopsellence.cli.util.files import state_home

# 107 bytes are the most for a socket's path (unix(7)): 13 for the host's folder below this one, and 19 for ssh's
# temporary name of the control socket.
_LONGEST: Final = 107 - 13 - 19
# ssh replaces %, its options split at spaces, and gRPC separates sockets by commas.
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._-]+", re.ASCII)


def runtime_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for sockets of this user, which need not exist: not in ``/tmp``, where others may be first.

    Raises:
        CliError: ``ssh_folder_unusable``: its path is too long for sockets, or has special characters.
    """
    chosen = Path(environ.get("XDG_RUNTIME_DIR", ""))
    usable = chosen.is_absolute() and chosen.is_dir() and chosen.stat().st_uid == os.geteuid()
    folder = chosen / "devopsellence" if usable else state_home(environ) / "ssh"
    if len(os.fsencode(folder)) > _LONGEST:
        raise _unusable(folder, "its path is too long for sockets")
    if not _PLAIN.fullmatch(str(folder)):
        raise _unusable(folder, "its path has special characters")
    return folder


def host_folder(host: SshHost) -> Path:
    """Return the folder of a host's sockets, which need not exist."""
    return runtime_folder() / _digest(str(host))


def socket_path(host: SshHost, address: str) -> Path:
    """Return the socket that leads to an address through a host; nothing may be listening."""
    return host_folder(host) / _digest(address)


def make_private(folder: Path) -> None:
    """Create a folder of this user alone, or check an existing one.

    Raises:
        CliError: ``ssh_folder_unusable``.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        found = folder.lstat()
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise _unusable(folder, "it is not a folder")
    if found.st_uid != os.geteuid():
        raise _unusable(folder, "it belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _unusable(folder, f"others have access to it (mode {stat.S_IMODE(found.st_mode):o})")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unusable(folder: Path, why: str) -> CliError:
    action = NextAction("use another folder, of this user alone", "export XDG_RUNTIME_DIR=<folder>")
    message = f"the folder {folder} cannot be used for connections through ssh: {why}"
    return CliError("ssh_folder_unusable", message, next_actions=[action])
