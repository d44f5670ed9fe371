"""gRPC channel to etcd: endpoints, TLS, authentication, and mapping of gRPC failures to the errors of ``errors``.

See docs/decisions/0023-etcd-stubs.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from devopsellence import input_file
from devopsellence.api.v1.audit_pb2_grpc import AuditStub
from devopsellence.api.v1.certificates_pb2_grpc import CertificatesStub
from devopsellence.client_certificate import UnusableCertificate, file_stamps, read_credentials
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import AuthStub, KVStub, LeaseStub, MaintenanceStub, WatchStub
from devopsellence.store.client.error_mapping import AuthenticationChanged, AuthenticationOff, NotProcessed, classify
from devopsellence.store.client.stream import FAILURES, EtcdStream, Request, Response, T
from devopsellence.store.errors import StoreError, Unauthenticated, Unavailable
from devopsellence.store.settings import Settings, SettingsError

if TYPE_CHECKING:
    from devopsellence.api.v1.audit_pb2_grpc import AuditAsyncStub
    from devopsellence.api.v1.certificates_pb2_grpc import CertificatesAsyncStub
    from devopsellence.etcd.v3.etcd_pb2_grpc import (
        AuthAsyncStub,
        KVAsyncStub,
        LeaseAsyncStub,
        MaintenanceAsyncStub,
        WatchAsyncStub,
    )

log = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),
    # A dead member is detected after 15 s at most. The effective timeout is the ping timeout, a minute by default; the
    # keepalive timeout alone changes nothing (observed with grpcio 1.85). etcd disconnects clients that ping more often
    # than every 5 s (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # etcd restarts quickly; gRPC's default backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # gRPC must not resend requests by itself.
    ("grpc.enable_retries", 0),
    # A page of large values may exceed gRPC's default of 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # Ignore http_proxy: a web proxy cannot reach etcd.
    ("grpc.enable_http_proxy", 0),
)
# With this metadata a member without quorum fails at once ("etcdserver: no leader") instead of not answering.
_REQUIRE_LEADER: Final = ("hasleader", "true")
_NO_ANSWER: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Stubs:
    """Channel with its stubs. Once replaced by another, a channel is closed when its last call has ended."""

    def __init__(self, channel: grpc.aio.Channel, stamps: tuple[int, ...], endpoints: tuple[str, ...]) -> None:
        self.channel = channel
        self.endpoints = endpoints
        #: Modification times of the certificate files that the channel was made with.
        self.stamps = stamps
        self.kv: KVAsyncStub = KVStub(channel)
        self.watch: WatchAsyncStub = WatchStub(channel)
        self.lease: LeaseAsyncStub = LeaseStub(channel)
        self.auth: AuthAsyncStub = AuthStub(channel)
        self.maintenance: MaintenanceAsyncStub = MaintenanceStub(channel)
        #: Served by gateways, and not by etcd.
        self.audit: AuditAsyncStub = AuditStub(channel)
        self.certificates: CertificatesAsyncStub = CertificatesStub(channel)
        #: Number of calls and streams that have not ended.
        self.calls = 0


class EtcdConnection:
    """Connection to one cluster. All methods raise only the errors of :mod:`devopsellence.store.errors`.

    A renewed certificate and other endpoints are used without a restart: files and endpoints are looked at before each
    call and each new stream. An open stream keeps its channel.
    """

    def __init__(self, settings: Settings, *, timeout: float) -> None:
        self._settings = settings
        #: Seconds to wait for a connection, and for the first answer of a stream.
        self.timeout = timeout
        # None: not requested yet. "": authentication is off in the cluster.
        self._token: str | None = None
        # Time at which the token was issued, on the loop's clock.
        self._authenticated_at = 0.0
        self._authenticating = asyncio.Lock()
        # Replaced channels that still have calls.
        self._replaced: set[Stubs] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._renewing = asyncio.Lock()
        # Stamps of certificate files that could not be used; they are not read again.
        self._refused_stamps: tuple[int, ...] | None = None
        #: Set by :meth:`close`; no further request is possible.
        self.closed = False

    async def open(self) -> None:
        """Create the channel, which connects at the first use.

        Raises:
            SettingsError: a certificate file cannot be read.
        """
        self._stubs = await self._dial()

    async def close(self) -> None:
        self.closed = True
        for stubs in (self._stubs, *self._replaced):
            await stubs.channel.close(None)

    def use_endpoints(self, endpoints: tuple[str, ...]) -> None:
        """Use ``endpoints`` for the next call and the next stream.

        Raises:
            SettingsError: they cannot be used together; nothing has changed.
        """
        self._settings = replace(self._settings, endpoints=endpoints)

    async def _dial(self) -> Stubs:
        settings = self._settings
        options = [*_OPTIONS, ("grpc.default_authority", settings.server_name)]
        stamps, credentials = await asyncio.to_thread(_credentials, settings)
        if credentials is None:
            channel = grpc.aio.insecure_channel(settings.target, options=options)
        else:
            options.append(("grpc.ssl_target_name_override", settings.server_name))
            channel = grpc.aio.secure_channel(settings.target, credentials, options=options)
        return Stubs(channel, stamps, settings.endpoints)

    def _is_current(self, stamps: tuple[int, ...] | None) -> bool:
        return stamps == self._stubs.stamps and self._settings.endpoints == self._stubs.endpoints

    async def _renew(self) -> None:
        """Replace the channel if certificate files or endpoints have changed; unusable files change nothing."""
        stamps = file_stamps(self._settings.ca_cert, self._settings.cert, self._settings.key)
        if stamps in (None, self._refused_stamps) or self._is_current(stamps):
            return
        async with self._renewing:
            if self._is_current(stamps) or self.closed:
                return
            try:
                renewed = await self._dial()
            except SettingsError as error:
                self._refused_stamps = stamps
                log.warning("the renewed certificate cannot be used; the one before stays in use: %s", error)
                return
            before, self._stubs = self._stubs, renewed
            self._replaced.add(before)
            if renewed.stamps != before.stamps:
                log.info("the certificate for etcd was renewed")
            await self._release(before)

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[Stubs]:
        """Return the current stubs; their channel is not closed within the block."""
        stubs = self._stubs
        stubs.calls += 1
        try:
            yield stubs
        finally:
            stubs.calls -= 1
            await self._release(stubs)

    async def _release(self, stubs: Stubs) -> None:
        """Close a replaced channel after its last call."""
        if stubs in self._replaced and not stubs.calls:
            self._replaced.discard(stubs)
            await stubs.channel.close(None)

    async def ask(
        self,
        what: str,
        method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        seconds: float,
        *,
        write: bool = False,
        leader: bool = True,
    ) -> Response:
        """Send a request to a method of one of the stubs and return the answer.

        Waits for a connection first, to distinguish a write never sent from a write without an answer. Requests that
        etcd rejected unprocessed are sent again: to another member for at most ``seconds``, and once with a new token.
        With ``leader``, a member without quorum rejects the request.
        """

        async def send(token: str) -> Response:
            async with self._use() as stubs:
                call = method(stubs)(request, timeout=seconds, metadata=_metadata(token, leader=leader))
                return await self._answer(what, call, write=write)

        # Most requests need no other attempt, and tenacity's preparation for one costs a tenth of a request.
        with suppress(NotProcessed):
            return await self._ask(what, send, seconds)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(NotProcessed),
            wait=wait_random_exponential(multiplier=0.02, max=0.25),
            stop=stop_after_delay(seconds),
            reraise=True,
        )
        return await retrying(self._ask, what, send, seconds)

    async def _ask(self, what: str, send: Callable[[str], Awaitable[T]], seconds: float) -> T:
        await self._connected(what, seconds)
        token = await self._authenticated()
        try:
            return await send(token)
        except AuthenticationChanged as error:
            if not self._settings.username:
                raise NotProcessed(str(error)) from error
        except Unauthenticated:
            if not self._settings.username:
                raise
        await self._authenticate(stale=token)
        return await send(self._token or "")

    async def stream(
        self,
        what: str,
        method: Callable[[Stubs], grpc.aio.StreamStreamMultiCallable[Request, Response]],
        *,
        lost: type[StoreError],
    ) -> EtcdStream[Request, Response]:
        """Open a bidirectional stream; ``lost`` is the error raised when the stream breaks."""
        await self._connected(what, self.timeout)
        token = await self._authenticated()
        stubs = self._stubs
        call = method(stubs)(metadata=_metadata(token, leader=True))
        stubs.calls += 1
        return EtcdStream(self, call, partial(self._ended, stubs), what, token, lost, self.timeout)

    async def channel(self, what: str) -> object:
        """Wait for a connection; return what stands for its channel, another once certificate or endpoints change."""
        await self._connected(what, self.timeout)
        return self._stubs

    @property
    def uses_tokens(self) -> bool:
        """Return True if calls carry a token of etcd's, which expires."""
        return bool(self._settings.username)

    def _ended(self, stubs: Stubs) -> None:
        """Note the end of a stream."""
        stubs.calls -= 1
        if stubs in self._replaced:
            closing = asyncio.ensure_future(self._release(stubs))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def forget(self, token: str) -> bool:
        """Drop a rejected token, so that the next request gets a new one. False: there is no password."""
        if self._token == token:
            self._token = None
        return bool(self._settings.username)

    def doubt(self, token: str) -> bool:
        """Handle a denied watch: older etcd releases (3.5.1) also deny a watch when ``token`` has expired.

        Return True if a new token may help; False without a password, or if the token was new and the denial is real.
        """
        if not token or (self._token == token and self._age() < self.timeout):
            return False
        return self.forget(token)

    def failure(self, error: BaseException, what: str, *, write: bool = False) -> StoreError:
        """Map an exception of gRPC to an error of the store."""
        where = f"{what} (etcd at {','.join(self._settings.endpoints)})"
        if isinstance(error, grpc.aio.AioRpcError):
            return classify(error.code().name, error.details() or "", what=where, write=write)
        if isinstance(error, TimeoutError):
            return classify("DEADLINE_EXCEEDED", "no answer in time", what=where, write=write)
        return Unavailable(f"{where}: {error}")

    async def _answer(self, what: str, answer: Awaitable[T], *, write: bool) -> T:
        try:
            return await answer
        except FAILURES as error:
            raise self.failure(error, what, write=write) from error

    async def opened(self, what: str, seconds: float) -> None:
        """Wait for a connection.

        Raises:
            Unavailable: there is none in time.
        """
        try:
            async with asyncio.timeout(seconds), self._use() as stubs:
                await stubs.channel.channel_ready()
        except TimeoutError as error:
            raise await self._not_connected(what) from error

    async def _connected(self, what: str, seconds: float) -> None:
        await self._renew()
        try:
            if self._stubs.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                return
            async with self._use() as stubs:
                await stubs.maintenance.Status(rpc.StatusRequest(), timeout=seconds, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            # Any other error is an answer.
            if error.code() in _NO_ANSWER:
                raise await self._not_connected(what) from error
        except grpc.aio.UsageError as error:
            raise Unavailable(f"{what}: the connection to etcd has been closed") from error

    async def _not_connected(self, what: str) -> Unavailable:
        where = ",".join(self._settings.endpoints)
        return Unavailable(f"{what}: etcd does not answer at {where}{await self._reason()}")

    async def _reason(self) -> str:
        """Return the reason for the missing connection, from a request that does not wait for a connection."""
        try:
            async with self._use() as stubs:
                await stubs.maintenance.Status(rpc.StatusRequest(), timeout=0.1)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return f" ({(error.details() or '').rpartition('last error: ')[2]})"
        return ""

    async def _authenticated(self) -> str:
        """Return the token to send; "" with certificate authentication or without authentication."""
        if self._token is None and self._settings.username:
            await self._authenticate(stale=None)
        return self._token or ""

    def _age(self) -> float:
        """Return the age of the token in seconds."""
        return asyncio.get_running_loop().time() - self._authenticated_at

    async def _authenticate(self, *, stale: str | None) -> None:
        """Request a new token, unless another task has replaced ``stale`` in the meantime."""
        async with self._authenticating:
            if self._token != stale and self._token is not None:
                return
            name, file = self._settings.username, self._settings.password_file
            what = f"authenticate as {name}"
            try:
                password = (await asyncio.to_thread(input_file.read, file)).decode().rstrip("\r\n") if file else ""
                # Sent without the token: etcd rejects an authentication request that carries an expired token.
                request = rpc.AuthenticateRequest(name=name, password=password)
                metadata = _metadata("", leader=True)
                async with self._use() as stubs:
                    call = stubs.auth.Authenticate(request, timeout=self.timeout, metadata=metadata)
                    self._token = (await self._answer(what, call, write=False)).token
                self._authenticated_at = asyncio.get_running_loop().time()
            except (OSError, UnicodeDecodeError) as error:
                raise Unauthenticated(f"{what}: cannot read the password file: {error}") from error
            except AuthenticationOff:
                self._token = ""


def _metadata(token: str, *, leader: bool) -> tuple[tuple[str, str], ...]:
    return ((_REQUIRE_LEADER,) if leader else ()) + ((("token", token),) if token else ())


def _credentials(settings: Settings) -> tuple[tuple[int, ...], grpc.ChannelCredentials | None]:
    """Return the stamps of the certificate files and the credentials made of them; blocks.

    Raises:
        SettingsError: the files cannot be used.
    """
    try:
        return read_credentials(settings.ca_cert, settings.cert, settings.key)
    except UnusableCertificate as error:
        raise SettingsError(str(error)) from error
