"""The node's age identity: a file created at the first start and never overwritten.

Secrets are encrypted for its public key, which is in the heartbeat. The private key never leaves the node.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import structlog

from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.nodeagent.state import StateError
from devopsellence.nodeagent.state_files import StateFiles

IDENTITY_FILE: Final = "identity.age"
_log = structlog.get_logger()


def load_identity(folder: Path, files: StateFiles | None = None) -> AgeIdentity:
    """Return the identity in the state folder, created if missing. Blocks; the folder must be locked.

    Raises:
        StateError: the file cannot be read or written, or has no identity.
    """
    path, files = folder / IDENTITY_FILE, files or StateFiles(folder)
    try:
        content = files.read(path)
        # A copied file may be readable for other users.
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
        identity = AgeIdentity(content.decode("ascii"))
    except FileNotFoundError:
        return _create(path, files)
    except (EncryptionError, UnicodeDecodeError) as error:
        raise StateError(
            f"{path} holds no age identity: put the right file back, or remove it, attach the node's environments "
            "again and set their secrets again"
        ) from error
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror}") from error
    files.adopt(path, content)
    return identity


def _create(path: Path, files: StateFiles) -> AgeIdentity:
    identity = AgeIdentity.generate()
    try:
        files.write(path, identity.text().encode(), sync=True)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}") from error
    _log.info("created this node's identity", recipient=identity.recipient)
    return identity
