"""TLS handshake in memory, which tells whether two sides accept each other's certificates, without a connection."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

# Each side has at most three turns in TLS 1.2 and 1.3.
_ROUNDS: Final = 6


def shake_hands(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, server_name: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return client and server after a handshake; the client expects ``server_name`` in the server's certificate.

    Raises:
        ssl.SSLError: a side does not accept the other.
    """
    forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, forth, server_hostname=server_name)
    server = server_context.wrap_bio(forth, back, server_side=True)
    for _ in range(_ROUNDS):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client, server
