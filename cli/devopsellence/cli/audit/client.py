"""Calls to the Audit service of every gateway, over connections of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from devopsellence.api.v1.audit_pb2 import AuditAnswer, AuditEntry, AuditRequest
from devopsellence.api.v1.audit_pb2_grpc import AuditStub
from devopsellence.api.v1.stored_pb2 import Gateways
from devopsellence.cli import reach
from devopsellence.cli.output import CliError
from devopsellence.client_certificate import UnusableCertificate, read_credentials
from devopsellence.gateways import InvalidGateways, endpoints_with, gateway_addresses
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord

if TYPE_CHECKING:
    # Defined only in the stub file.
    from devopsellence.api.v1.audit_pb2_grpc import AuditAsyncStub
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

_OPTIONS: Final = (
    # A gateway that hangs is noticed after 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    # A gateway sends 200 entries at a time, which may be long.
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_CONNECT_SECONDS: Final = 4.0
#: Pause before a gateway that went away is asked again.
_AGAIN_SECONDS: Final = 2.0
#: Answers that another attempt does not change.
_FINAL: Final = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
)
_PREFIXES: Final = ("etcdserver: permission denied: ", "etcdserver: no leader: ", "gateway: ")


@dataclass(frozen=True)
class GatewayAnswer:
    """Answer of one gateway. ``problem``: why entries are or may be missing, as a clause; empty if none are."""

    address: str
    entries: Sequence[AuditEntry] = ()
    problem: str = ""
    #: Reason of a gateway that has not answered at all.
    code: grpc.StatusCode | None = None


async def gateways(etcd: Etcd) -> tuple[str, ...]:
    """Return the addresses of all gateways: the configured ones, and those that have registered themselves."""
    stored = await etcd.get(etcd.keys.gateways)
    try:
        learned = gateway_addresses(decode(Gateways, stored.key, stored.value)) if stored is not None else ()
    except (MalformedRecord, InvalidGateways):
        learned = ()
    return endpoints_with(etcd.settings.endpoints, learned)


async def ask_all(settings: Settings, addresses: Iterable[str], request: AuditRequest) -> list[GatewayAnswer]:
    """Return the answers of all gateways.

    Raises:
        CliError: ``certificate_missing``.
    """
    credentials = _credentials(settings)
    return list(await asyncio.gather(*(_ask(settings, credentials, address, request) for address in addresses)))


async def follow(
    settings: Settings,
    requests: Mapping[str, AuditRequest],
    show: Callable[[Sequence[AuditEntry]], None],
    say: Callable[[str, str], None],
) -> list[GatewayAnswer]:
    """Show entries of all gateways, and new ones as they are stored; return only if no gateway can be followed.

    ``requests``: by address. ``say`` is called with an address and a problem, "" when a gateway answers again.
    """
    credentials = _credentials(settings)
    return list(
        await asyncio.gather(
            *(_follow(settings, credentials, address, asked, show, say) for address, asked in requests.items())
        )
    )


async def _ask(
    settings: Settings, credentials: grpc.ChannelCredentials, address: str, request: AuditRequest
) -> GatewayAnswer:
    entries: list[AuditEntry] = []
    problem = ""
    try:
        async with aclosing(_answers(settings, credentials, address, request)) as answers:
            async for answer in answers:
                entries.extend(answer.entries)
                problem = problem or answer.problem
    except _Failed as failed:
        return GatewayAnswer(address, entries, str(failed), failed.code)
    return GatewayAnswer(address, entries, problem)


async def _follow(
    settings: Settings,
    credentials: grpc.ChannelCredentials,
    address: str,
    request: AuditRequest,
    show: Callable[[Sequence[AuditEntry]], None],
    say: Callable[[str, str], None],
) -> GatewayAnswer:
    asked, before = AuditRequest(), ""
    asked.CopyFrom(request)
    while True:
        problem = "the stream has ended"
        try:
            async with aclosing(_answers(settings, credentials, address, asked)) as answers:
                async for answer in answers:
                    if not answer.entries and answer.problem != before:
                        before = answer.problem
                        say(address, before)
                    show(answer.entries)
                    for entry in answer.entries:
                        # From here on after a break.
                        asked.since.CopyFrom(entry.at)
        except _Failed as failed:
            if failed.code in _FINAL:
                return GatewayAnswer(address, problem=str(failed), code=failed.code)
            problem = str(failed)
        if problem != before:
            before = problem
            say(address, problem)
        await asyncio.sleep(_AGAIN_SECONDS)


class _Failed(Exception):
    """A gateway has not answered, or not to the end; the message is the reason, as a clause."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


async def _answers(
    settings: Settings, credentials: grpc.ChannelCredentials, address: str, request: AuditRequest
) -> AsyncGenerator[AuditAnswer, None]:
    """Yield the answers of one gateway.

    Raises:
        _Failed.
    """
    async with _connect(settings, credentials, address) as stub:
        call = stub.Read(request)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await call.wait_for_connection()
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise _Failed(error.code(), _reason(error)) from error
        except TimeoutError as error:
            raise _Failed(grpc.StatusCode.UNAVAILABLE, "it does not answer") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The gateway has cancelled the call, as it does when it stops.
            raise _Failed(grpc.StatusCode.CANCELLED, "it has ended the call") from error


@asynccontextmanager
async def _connect(
    settings: Settings, credentials: grpc.ChannelCredentials, address: str
) -> AsyncIterator[AuditAsyncStub]:
    name = settings.server_name
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))
    target = await reach.target(settings, address)
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        # The generated class serves sync and async channels; only the stub file has two classes.
        stub: AuditAsyncStub = AuditStub(channel)
        yield stub


def _credentials(settings: Settings) -> grpc.ChannelCredentials:
    try:
        _, credentials = read_credentials(settings.ca_cert, settings.cert, settings.key)
    except UnusableCertificate as error:
        raise CliError("certificate_missing", str(error)) from error
    if credentials is None:
        message = "no client certificate is set; a cluster without certificates has no gateways and no audit trail"
        raise CliError("certificate_missing", message)
    return credentials


def _reason(error: grpc.aio.AioRpcError) -> str:
    details = error.details() or error.code().name.lower().replace("_", " ")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "it serves no audit trail: it is a controller of an earlier version, or etcd itself"
    for prefix in _PREFIXES:
        details = details.removeprefix(prefix)
    return details
