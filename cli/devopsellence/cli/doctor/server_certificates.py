"""Certificates of the gateways, or of etcd's members without gateways, as presented to clients."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from devopsellence.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.cli import reach
from devopsellence.cli.doctor.machine import validity
from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.cli.store.reader import concurrently

if TYPE_CHECKING:
    from devopsellence.store.settings import Settings

_SECONDS: Final = 2.0
_FIX: Final = NextAction(
    "renew, on the machine with the cluster's CA, then copy the folder to that machine", "devopsellence cluster init"
)


@dataclass(frozen=True)
class ServerCertificate:
    """Certificate of an endpoint: its end, or why clients refuse it."""

    expires: datetime.datetime | None = None
    refused: str = ""
    common_name: str = ""


async def server_certificates(settings: Settings) -> dict[str, ServerCertificate]:
    """Return the certificates of the endpoints that answer; none without TLS."""
    context = await asyncio.to_thread(_client_context, settings)
    if context is None:
        return {}
    answers = await concurrently(_presented(settings, endpoint, context) for endpoint in settings.endpoints)
    pairs = zip(settings.endpoints, answers, strict=True)
    return {endpoint: certificate for endpoint, certificate in pairs if certificate is not None}


def gateways_among(endpoints: Sequence[str], certificates: Mapping[str, ServerCertificate]) -> frozenset[str]:
    """Return the endpoints that are gateways: their certificates are not those of members of etcd.

    An endpoint that does not answer counts as what the others are. Pure.
    """
    named = {endpoint: found.common_name for endpoint, found in certificates.items() if found.common_name}
    gateways = {endpoint for endpoint, name in named.items() if name != MEMBER_COMMON_NAME}
    return frozenset(gateways | ({*endpoints} - named.keys() if gateways else set()))


def certificate_results(certificates: Mapping[str, ServerCertificate], now: datetime.datetime) -> list[CheckResult]:
    """Return the results for certificates by endpoint; those that are valid for long are a single result. Pure."""
    results: list[CheckResult] = []
    sound: list[datetime.datetime] = []
    for endpoint, certificate in certificates.items():
        name = f"certificate of {endpoint}"
        if certificate.expires is None:
            results.append(CheckResult(name, "error", certificate.refused, "certificate_expired", (_FIX,)))
            continue
        result = validity(name, f"the certificate of {endpoint}", certificate.expires - now, _FIX)
        if result.code:
            results.append(result)
        else:
            sound.append(certificate.expires)
    if sound and not results:
        results.append(validity("server certificates", "the first of the certificates", min(sound) - now, _FIX))
    return results


async def _presented(settings: Settings, endpoint: str, context: ssl.SSLContext) -> ServerCertificate | None:
    """Return the certificate that an endpoint presents; None without an answer, which other checks report."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(_SECONDS):
            socket, name = await reach.socket_path(settings, endpoint), settings.server_name
            if socket is not None:
                _, writer = await asyncio.open_unix_connection(socket, ssl=context, server_hostname=name)
            else:
                _, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=context, server_hostname=name
                )
    except ssl.SSLCertVerificationError as error:
        return ServerCertificate(refused=f"clients refuse the certificate of {endpoint}: {error.verify_message}")
    except (OSError, TimeoutError):
        return None
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    expires = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), datetime.UTC)
    names = [value for part in certificate["subject"] for name, value in part if name == "commonName"]
    return ServerCertificate(expires, common_name="".join(names))


def _client_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of a client; None without certificates, or if they cannot be read."""
    if settings.ca_cert is None or settings.cert is None or settings.key is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
        context.load_cert_chain(settings.cert, settings.key, password="")
    except OSError:
        # The check of this machine's certificates says why.
        return None
    return context
