"""Secrets at rest: age files, and the identities that open them.

Both ends are here, because both must agree: operators and the controller seal, nodes open. Who is to be able to open a
file, where it is stored and what becomes of the plaintext is for others to decide; nothing here does IO. pyrage is
imported when it is needed, so that a program which never meets a secret does not pay for it.

The format is age v1 with X25519 recipients, ASCII-armored (age-encryption.org/v1); the ``age`` tool opens it as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node

_RECIPIENT: Final = re.compile(r"age1[02-9ac-hj-np-z]{58}\Z")
#: A secret larger than this is a file that belongs elsewhere; etcd takes 1.5 MiB a request.
MAX_BYTES: Final = 64 * 1024


class EncryptionError(Exception):
    """It cannot be sealed or opened; the message says why, and never holds what is secret."""


class AgeIdentity:
    """A private key. Its text form is what the ``age-keygen`` tool writes; it is in no ``repr``."""

    def __init__(self, text: str) -> None:
        """The identity in ``text``, the content of a key file; lines that begin with ``#`` are comments.

        Raises:
            EncryptionError: there is none in it.
        """
        from pyrage import IdentityError, x25519

        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        try:
            self._identity = x25519.Identity.from_str(lines[0] if lines else "")
        except IdentityError as error:
            raise EncryptionError("there is no age identity (a line that begins with AGE-SECRET-KEY-1)") from error

    @classmethod
    def generate(cls) -> AgeIdentity:
        """A new one."""
        from pyrage import x25519

        return cls(str(x25519.Identity.generate()))

    @property
    def recipient(self) -> str:
        """The public key, ``age1…``."""
        return str(self._identity.to_public())

    def text(self) -> str:
        """What to write into its file, which only its owner may read."""
        return f"# public key: {self.recipient}\n{self._identity}\n"

    def decrypt(self, armored: str) -> bytes:
        """What is in an age file that was sealed for this identity.

        Raises:
            EncryptionError: it was not, or it is none.
        """
        from pyrage import DecryptError, decrypt

        try:
            return bytes(decrypt(armored.encode(), [self._identity]))
        except DecryptError as error:
            raise EncryptionError(f"it cannot be opened with the identity of {self.recipient}") from error


def is_recipient(text: str) -> bool:
    """Whether ``text`` reads like a public key."""
    return _RECIPIENT.match(text) is not None


def node_recipient(node: Node, beat: Heartbeat | None) -> str:
    """The public key of the machine that now is ``node``: its agent's word, else what was recorded; "" if unknown."""
    said = beat.age_recipient if beat is not None and beat.uid == node.uid else ""
    return next((key for key in (said, node.age_recipient) if is_recipient(key)), "")


def encrypt(plaintext: bytes, recipients: Iterable[str]) -> str:
    """``plaintext`` as an armored age file that each of ``recipients`` (``age1…``) can open.

    Raises:
        EncryptionError: there is no recipient, one is malformed, or the text is larger than :data:`MAX_BYTES`.
    """
    from pyrage import RecipientError, encrypt, x25519

    if len(plaintext) > MAX_BYTES:
        raise EncryptionError(f"a secret has at most {MAX_BYTES // 1024} KiB, this has {len(plaintext) // 1024 + 1}")
    try:
        keys = [x25519.Recipient.from_str(recipient) for recipient in sorted(set(recipients))]
    except RecipientError as error:
        raise EncryptionError("one of the recipients is not an age public key (age1…)") from error
    if not keys:
        raise EncryptionError("there is nobody to seal it for")
    return bytes(encrypt(plaintext, keys, armored=True)).decode()
