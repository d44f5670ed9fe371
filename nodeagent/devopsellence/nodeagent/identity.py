"""This node's age identity: a file that is made at the first start, and that nothing ever overwrites.

Secrets are sealed for its public half, which the heartbeat tells. The private half never leaves this machine.
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
    """The identity in an agent's state folder, made if there is none yet. Blocks; the folder must be locked.

    Raises:
        StateError: the file cannot be read or written, or holds no identity.
    """
    path = folder / IDENTITY_FILE
    try:
        text = path.read_text(encoding="ascii")
        # Whoever copied it here may have left it open to others.
        path.chmod(0o600)
        return AgeIdentity(text)
    except FileNotFoundError:
        return _make(path)
    except (EncryptionError, UnicodeDecodeError) as error:
        raise StateError(
            f"{path} holds no age identity: put the right file back, or remove it, attach the node's environments anew "
            "and set their secrets again"
        ) from error
    except OSError as error:
        raise StateError(f"{path} cannot be used: {os.strerror(error.errno or 0)}") from error


def _make(path: Path) -> AgeIdentity:
    identity = AgeIdentity.generate()
    try:
        write_file(path, identity.text().encode(), sync=True)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error
    _log.info("made this node's identity", recipient=identity.recipient)
    return identity
