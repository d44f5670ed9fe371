"""Probes of gateways and agents: does a server accept certificates of an authority, and has it one of it itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from devopsellence.certificates.files import KeyPair
from devopsellence.memory_file import memory_file

#: Time of one probe, enough for a handshake across an ocean.
_SECONDS: Final = 5.0
_AT_A_TIME: Final = 32
#: What a client of HTTP/2 sends first: the preface and empty settings (RFC 9113, 3.4). The server answers with its own.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@dataclass(frozen=True)
class Server:
    """Gateway or agent: a name for messages, its ``host:port`` and the name in its certificate."""

    name: str
    address: str
    server_name: str


class Finding(Enum):
    """Result of a probe."""

    OK = auto()
    UNREACHABLE = auto()
    #: The server does not trust the authority of the client's certificate.
    REJECTS = auto()
    #: The server's own certificate is not signed under a trusted authority.
    OTHER_AUTHORITY = auto()


_WORDS: Final = {
    Finding.UNREACHABLE: "cannot be reached",
    Finding.REJECTS: "does not trust the new CA",
    Finding.OTHER_AUTHORITY: "has no certificate of the new CA",
}


async def probe_all(servers: Sequence[Server], trusted: bytes, own: KeyPair) -> dict[Server, Finding]:
    """Probe servers with the client certificate ``own``, trusting the authorities ``trusted`` (PEM) alone."""
    context = await asyncio.to_thread(_context, trusted, own)
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def one(server: Server) -> Finding:
        async with slots:
            return await _probe(server, context)

    return dict(zip(servers, await asyncio.gather(*map(one, servers)), strict=True))


def described(findings: Mapping[Server, Finding]) -> list[str]:
    """Return a sentence for each server that is not in order."""
    return [
        f"{server.name} at {server.address} {_WORDS[finding]}"
        for server, finding in findings.items()
        if finding is not Finding.OK
    ]


async def _probe(server: Server, context: ssl.SSLContext) -> Finding:
    host, _, port = server.address.rpartition(":")
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=server.server_name
            )
            try:
                writer.write(_PREFACE)
                # A server of TLS 1.3 says only after the handshake that it rejects the client's certificate.
                return Finding.OK if await reader.read(1) else Finding.REJECTS
            finally:
                writer.transport.abort()
    except ssl.SSLCertVerificationError:
        return Finding.OTHER_AUTHORITY
    except (ssl.SSLError, ConnectionResetError):
        return Finding.REJECTS
    except (OSError, TimeoutError):
        return Finding.UNREACHABLE


def _context(trusted: bytes, own: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusted.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    # The library reads a certificate from files alone.
    files = (memory_file("tls.crt", own.certificate.decode("ascii")), memory_file("tls.key", own.key.decode("ascii")))
    context.load_cert_chain(*files)
    return context
