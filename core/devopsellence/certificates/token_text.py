"""Text of tokens: a mark that names kind and format, then a document in base64. One line, safe in any shell."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

#: Most bytes of a document.
_MOST_BYTES: Final = 64 << 10


def encode(mark: str, document: Mapping[str, Any], *, compress: bool = False) -> str:
    """Return the text of a token, which :func:`decode` reads back.

    ``compress``: for a token that is pasted into a terminal, which takes lines of 4,095 characters.
    """
    content = json.dumps(document).encode()
    return mark + base64.urlsafe_b64encode(zlib.compress(content, 9) if compress else content).decode().rstrip("=")


def decode(mark: str, text: str, *, compressed: bool = False) -> dict[str, Any]:
    """Return the document of a token.

    Raises:
        ValueError: ``text`` is no such token; the message says why, as a clause, and shows nothing of it.
    """
    body = text.strip()
    if not body.startswith(mark):
        raise ValueError(f"it does not begin with {mark}")
    encoded = body.removeprefix(mark)
    try:
        # Without ``validate``, characters in between would be skipped.
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        document = json.loads(_decompressed(content) if compressed else content)
    except (binascii.Error, ValueError, RecursionError, zlib.error):
        # The cause would show parts of the token in a traceback.
        raise ValueError("it is cut or damaged") from None
    return document if isinstance(document, dict) else {}


def _decompressed(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(content, _MOST_BYTES)
    # The end holds a checksum of the whole.
    if not stream.eof or stream.unused_data:
        raise ValueError("it is cut or too large")
    return found
