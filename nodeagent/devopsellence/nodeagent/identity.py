"""The node's age identity: a file created at the first start and never overwritten.

Secrets are encrypted for its public key, which is in the heartbeat. The private key never leaves the node.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.nodeagent.state import StateError, write_file

IDENTITY_FILE: Final = "identity.age"
_log = structlog.get_logger()


def load_identity(folder: Path) -> AgeIdentity:
    """Return the identity in the state folder, created if missing. Blocks; the folder must be locked.

    Raises:
        StateError: the file cannot be read or written, or has no identity.
    """
    path = folder / IDENTITY_FILE
    try:
        text = path.read_text(encoding="ascii")
        # A copied file may be readable for other users.
        path.chmod(0o600)
        return AgeIdentity(text)
    except FileNotFoundError:
        return _create(path)
    except (EncryptionError, UnicodeDecodeError) as error:
        raise StateError(
            f"{path} holds no age identity: put the right file back, or remove it, attach the node's environments "
            "again and set their secrets again"
        ) from error
    except OSError as error:
        raise StateError(f"{path} cannot be used: {os.strerror(error.errno or 0)}") from error


def _create(path: Path) -> AgeIdentity:
    identity = AgeIdentity.generate()
    try:
        write_file(path, identity.text().encode(), sync=True)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error
    _log.info("created this node's identity", recipient=identity.recipient)
    return identity
