"""Certificates of etcd's members, as presented to clients."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from typing import TYPE_CHECKING, Final

from devopsellence.cli.doctor.machine import validity
from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.cli.store.reader import concurrently

if TYPE_CHECKING:
    from devopsellence.store.settings import Settings

_SECONDS: Final = 2.0
_FIX: Final = NextAction(
    "renew, on the machine with the cluster's CA, then copy the folder to the member", "devopsellence cluster init"
)


async def member_certificates(settings: Settings, now: datetime.datetime) -> list[CheckResult]:
    """Check the expiry of the certificate of each member of etcd; no results without TLS.

    A member that does not answer is left to the checks of members.
    """
    context = await asyncio.to_thread(_client_context, settings)
    if context is None:
        return []
    answers = await concurrently(_expiry(endpoint, settings.server_name, context) for endpoint in settings.endpoints)
    return certificate_results(dict(zip(settings.endpoints, answers, strict=True)), now)


def certificate_results(
    expiries: dict[str, datetime.datetime | str | None], now: datetime.datetime
) -> list[CheckResult]:
    """Return the results for members by endpoint: a time of expiry, the reason of a refusal, or None for no answer.

    Certificates that are valid for long are a single result.
    """
    results: list[CheckResult] = []
    sound = False
    for endpoint, expiry in expiries.items():
        name = f"certificate of etcd {endpoint}"
        if isinstance(expiry, str):
            results.append(CheckResult(name, "error", expiry, "certificate_expired", (_FIX,)))
        elif expiry is not None:
            result = validity(name, f"the certificate of {endpoint}", expiry - now, _FIX)
            results += [result] if result.code else []
            sound = sound or not result.code
    if sound and not results:
        first = min(expiry for expiry in expiries.values() if isinstance(expiry, datetime.datetime))
        results.append(validity("certificates of etcd", "the first of the members' certificates", first - now, _FIX))
    return results


async def _expiry(endpoint: str, server_name: str, context: ssl.SSLContext) -> datetime.datetime | str | None:
    """Return the end of a member's certificate, the reason why clients refuse it, or None without an answer."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=server_name
            )
    except ssl.SSLCertVerificationError as error:
        return f"clients refuse the certificate of {endpoint}: {error.verify_message}"
    except (OSError, TimeoutError):
        return None
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), datetime.UTC)


def _client_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of a client of etcd; None without certificates, or if they cannot be read."""
    if settings.ca_cert is None or settings.cert is None or settings.key is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
        context.load_cert_chain(settings.cert, settings.key, password="")
    except OSError:
        # The check of this machine's certificates says why.
        return None
    return context
