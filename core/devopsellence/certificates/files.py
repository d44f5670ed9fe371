"""Replacement of a certificate and its key, which are two files, as if they were one.

The new pair is first written to a third file, then to its places. Whoever finds the third file finishes the work, so no
crash leaves a certificate with the key of another. Imports only the standard library.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from devopsellence import input_file
from devopsellence.atomic_file import write_atomic

_KEY_MODE: Final = 0o600
_CERTIFICATE_MODE: Final = 0o644
#: First line of each certificate in a PEM file; the key comes before.
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class KeyPair:
    """Certificate, with the authority behind it if there is one, and its private key; PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    def write(self, certificate: Path, key: Path) -> None:
        """Replace both files so that they fit each other, also after a crash in between. The key gets mode 0600.

        Raises:
            OSError: a file cannot be written; :func:`finish_replacement` goes on if the pair was complete.
        """
        write_atomic(_pending(certificate), self.key + self.certificate, mode=_KEY_MODE)
        finish_replacement(certificate, key)


class Busy(Exception):
    """Another process is replacing certificates in the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the certificates of a folder against other processes that replace them.

    Raises:
        Busy: another process has the lock. OSError: there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another process is replacing certificates in {folder}") from error
        yield
    finally:
        os.close(descriptor)


def finish_replacement(certificate: Path, key: Path) -> None:
    """Finish a replacement that a crash or a full disk has interrupted.

    Raises:
        OSError: a file cannot be read or written.
    """
    pending = _pending(certificate)
    try:
        content = input_file.read(pending)
    except FileNotFoundError:
        return
    key_pem, begin, rest = content.partition(_CERTIFICATE)
    if key_pem and begin:
        # Root renews for programs that run as other users.
        write_atomic(key, key_pem, mode=_KEY_MODE, keep_owner=True)
        write_atomic(certificate, begin + rest, mode=_CERTIFICATE_MODE, keep_owner=True)
    with suppress(FileNotFoundError):
        pending.unlink()


def _pending(certificate: Path) -> Path:
    return certificate.with_name(f"{certificate.name}.new")
