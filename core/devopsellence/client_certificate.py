"""End of a client certificate, without a library that parses certificates: those take memory for a rare question."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

_ROUNDS: Final = 6


def certificate_end(ca_cert: Path | None, cert: Path | None, key: Path | None) -> float:
    """Return the end of a client certificate in seconds since the epoch, as a server sees it by a handshake in memory.

    0 without a certificate, or if a server of the authority ``ca_cert`` would not accept it. Blocks.
    """
    if ca_cert is None or cert is None or key is None:
        return 0.0
    client_context, server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client_context.check_hostname = False
    # The peer is this function.
    client_context.verify_mode = ssl.CERT_NONE
    server_context.verify_mode = ssl.CERT_REQUIRED
    try:
        server_context.load_verify_locations(ca_cert)
        for context in (client_context, server_context):
            context.load_cert_chain(cert, key, password="")
        forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(back, forth)
        server = server_context.wrap_bio(forth, back, server_side=True)
        for _ in range(_ROUNDS):
            for side in (client, server):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        certificate = server.getpeercert() or {}
        return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
    except (OSError, ValueError, KeyError):
        return 0.0
