"""Calls to etcd with the controller's identity, and the status codes of failures for the gateway's callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.connection import EtcdConnection, Stubs
from devopsellence.store.client.stream import EtcdStream, Request, Response
from devopsellence.store.errors import PermissionDenied, StoreError, Unauthenticated, Unavailable, WatchLost
from devopsellence.store.settings import Settings

#: Text by which clients know that a request was not processed, so that they send it again, to another gateway.
NOT_PROCESSED: Final = "etcdserver: no leader"
_TIMEOUT: Final = 5.0
# Share of a read's time that the first member has to answer. The caller would ask through another gateway, whose next
# member may be the silent one again.
_FIRST_SHARE: Final = 0.4
_PASSED_ON: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class UpstreamFailed(Exception):
    """A call to etcd failed; ``code`` and ``details`` are for the gateway's caller."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Upstream:
    """Connection to etcd for the gateway; an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._connection = EtcdConnection(settings, timeout=_TIMEOUT)

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def range(self, request: rpc.RangeRequest, seconds: float = _TIMEOUT) -> rpc.RangeResponse:
        return await self._ask("range", lambda stubs: stubs.kv.Range, request, seconds)

    async def put(self, request: rpc.PutRequest, seconds: float) -> rpc.PutResponse:
        return await self._ask("put", lambda stubs: stubs.kv.Put, request, seconds, write=True)

    async def delete(self, request: rpc.DeleteRangeRequest, seconds: float) -> rpc.DeleteRangeResponse:
        return await self._ask("delete", lambda stubs: stubs.kv.DeleteRange, request, seconds, write=True)

    async def txn(self, request: rpc.TxnRequest, seconds: float = _TIMEOUT, *, write: bool = True) -> rpc.TxnResponse:
        return await self._ask("txn", lambda stubs: stubs.kv.Txn, request, seconds, write=write)

    async def lease_grant(self, request: rpc.LeaseGrantRequest, seconds: float) -> rpc.LeaseGrantResponse:
        return await self._ask("lease grant", lambda stubs: stubs.lease.LeaseGrant, request, seconds, write=True)

    async def lease_revoke(self, request: rpc.LeaseRevokeRequest, seconds: float) -> rpc.LeaseRevokeResponse:
        return await self._ask("lease revoke", lambda stubs: stubs.lease.LeaseRevoke, request, seconds, write=True)

    async def lease_ttl(self, request: rpc.LeaseTimeToLiveRequest, seconds: float) -> rpc.LeaseTimeToLiveResponse:
        return await self._ask("lease time to live", lambda stubs: stubs.lease.LeaseTimeToLive, request, seconds)

    async def status(self, request: rpc.StatusRequest, seconds: float) -> rpc.StatusResponse:
        return await self._ask("status", lambda stubs: stubs.maintenance.Status, request, seconds, leader=False)

    async def watch(self) -> EtcdStream[rpc.WatchRequest, rpc.WatchResponse]:
        """Open a watch stream; its failures are errors of the store, see :func:`failure_of`."""
        return await self._connection.stream("watch", lambda stubs: stubs.watch.Watch, lost=WatchLost)

    async def keepalive(self) -> EtcdStream[rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse]:
        """Open a keepalive stream; its failures are errors of the store, see :func:`failure_of`."""
        return await self._connection.stream(
            "keep leases alive", lambda stubs: stubs.lease.LeaseKeepAlive, lost=Unavailable
        )

    async def _ask(
        self,
        what: str,
        method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        seconds: float,
        *,
        write: bool = False,
        leader: bool = True,
    ) -> Response:
        async def ask(limit: float) -> Response:
            return await self._connection.ask(what, method, request, limit, write=write, leader=leader)

        return await translated(ask(seconds) if write else asked_twice(ask, seconds), write=write)


async def asked_twice(ask: Callable[[float], Awaitable[Response]], seconds: float) -> Response:
    """Return the answer to a read: of another member, if the first is silent for its share of the time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        return await ask(seconds * _FIRST_SHARE)
    except Unavailable:
        return await ask(max(deadline - loop.time(), 0.01))


async def translated(call: Awaitable[Response], *, write: bool = False) -> Response:
    """Return the answer of a call to etcd.

    Raises:
        UpstreamFailed: the call failed.
    """
    try:
        return await call
    except StoreError as error:
        raise failure_of(error, write=write) from error


def failure_of(error: StoreError, *, write: bool = False) -> UpstreamFailed:
    """Return the status for a caller: etcd's own words about the request, else that another gateway may serve it."""
    if isinstance(error, PermissionDenied | Unauthenticated):
        # About the gateway's certificate, not about the caller's.
        return UpstreamFailed(grpc.StatusCode.UNAVAILABLE, f"{NOT_PROCESSED} (etcd refuses the gateway: {error})")
    answer = error.__cause__
    if isinstance(answer, grpc.aio.AioRpcError) and answer.code() in _PASSED_ON:
        return UpstreamFailed(answer.code(), answer.details() or "")
    if isinstance(error, Unavailable):
        return UpstreamFailed(grpc.StatusCode.UNAVAILABLE, f"{NOT_PROCESSED} ({error})")
    # An unanswered write may have happened.
    return UpstreamFailed(grpc.StatusCode.DEADLINE_EXCEEDED if write else grpc.StatusCode.UNAVAILABLE, str(error))
