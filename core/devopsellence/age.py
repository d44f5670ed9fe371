"""Encryption and decryption of secrets with age.

Operators and the controller encrypt, nodes decrypt. The choice of recipients, storage and use of the plaintext belong
elsewhere; no IO here. pyrage is imported on demand, so that programs without secrets start fast.

The format is age v1 with X25519 recipients, ASCII-armored (age-encryption.org/v1), as of the ``age`` tool.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node

_RECIPIENT: Final = re.compile(r"age1[02-9ac-hj-np-z]{58}\Z")
# Format of age: the header ends with a line "--- <MAC>"; then a nonce, and chunks with a tag each.
_HEADER_END: Final = re.compile(rb"\n---[^\n]*\n")
_NONCE: Final = 16
_TAG: Final = 16
_CHUNK: Final = 64 * 1024
#: Largest secret. Larger content belongs into a file or volume; etcd accepts 1.5 MiB per request.
MAX_BYTES: Final = 64 * 1024


class EncryptionError(Exception):
    """Encryption or decryption failed; the message gives the reason and never contains a secret."""


class AgeIdentity:
    """age private key. The text form is that of ``age-keygen``; ``repr`` never shows the key."""

    def __init__(self, text: str) -> None:
        """Parse ``text``, the content of a key file; lines that begin with ``#`` are comments.

        Raises:
            EncryptionError: ``text`` contains no identity.
        """
        from pyrage import IdentityError, x25519

        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        try:
            self._identity = x25519.Identity.from_str(lines[0] if lines else "")
        except IdentityError as error:
            raise EncryptionError("there is no age identity (a line that begins with AGE-SECRET-KEY-1)") from error

    @classmethod
    def generate(cls) -> AgeIdentity:
        """Generate a new identity."""
        from pyrage import x25519

        return cls(str(x25519.Identity.generate()))

    @property
    def recipient(self) -> str:
        """Return the public key, ``age1…``."""
        return str(self._identity.to_public())

    def text(self) -> str:
        """Return the content of the key file, which only the owner may read."""
        return f"# public key: {self.recipient}\n{self._identity}\n"

    def decrypt(self, armored: str) -> bytes:
        """Decrypt an armored age file.

        Raises:
            EncryptionError: ``armored`` is not encrypted for this identity, or not an age file.
        """
        from pyrage import DecryptError, decrypt

        try:
            return bytes(decrypt(armored.encode(), [self._identity]))
        except DecryptError as error:
            raise EncryptionError(f"it cannot be decrypted with the identity of {self.recipient}") from error


def is_recipient(text: str) -> bool:
    """Return True if ``text`` has the form of a public key."""
    return _RECIPIENT.match(text) is not None


def node_recipient(node: Node, beat: Heartbeat | None) -> str:
    """Return the current public key of ``node``: from the heartbeat, else as registered; "" if unknown."""
    reported = beat.age_recipient if beat is not None and beat.uid == node.uid else ""
    return next((key for key in (reported, node.age_recipient) if is_recipient(key)), "")


def encrypt(plaintext: bytes, recipients: Iterable[str]) -> str:
    """Encrypt ``plaintext`` as an armored age file for all ``recipients`` (``age1…``).

    Raises:
        EncryptionError: no recipient, a malformed recipient, or more than :data:`MAX_BYTES` of plaintext.
    """
    from pyrage import RecipientError, encrypt, x25519

    if len(plaintext) > MAX_BYTES:
        raise EncryptionError(f"a secret has at most {MAX_BYTES // 1024} KiB, this has {len(plaintext) // 1024 + 1}")
    try:
        keys = [x25519.Recipient.from_str(recipient) for recipient in sorted(set(recipients))]
    except RecipientError as error:
        raise EncryptionError("one of the recipients is not an age public key (age1…)") from error
    if not keys:
        raise EncryptionError("there is no recipient to encrypt the secret for")
    return bytes(encrypt(plaintext, keys, armored=True)).decode()


def plaintext_size(armored: str) -> int:
    """Return the size of the value in an armored age file, without a key; 0 if ``armored`` is not an age file."""
    lines = [line for line in armored.splitlines() if not line.startswith("-----")]
    try:
        parts = _HEADER_END.split(base64.b64decode("".join(lines), validate=True), maxsplit=1)
    except binascii.Error:
        return 0
    chunks = len(parts[-1]) - _NONCE
    return max(chunks - _TAG * -(-chunks // (_CHUNK + _TAG)), 0) if len(parts) == 2 else 0
