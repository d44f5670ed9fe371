"""Bidirectional gRPC stream to etcd, whose failures are the errors of ``errors``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar, cast

import grpc.aio

from devopsellence.store.client.error_mapping import classify
from devopsellence.store.errors import PermissionDenied, StoreError, Unauthenticated, Unavailable

#: Exceptions of a failed call, besides CancelledError. InvalidStateError: a write on a stream that has ended.
FAILURES: Final = (grpc.aio.AioRpcError, grpc.aio.BaseError, TimeoutError, asyncio.InvalidStateError)

Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")


class StreamOwner(Protocol):
    """Connection that a stream belongs to."""

    def failure(self, error: BaseException, what: str, *, write: bool = False) -> StoreError:
        """Map an exception of gRPC to an error of the store."""

    def forget(self, token: str) -> bool:
        """Drop a rejected token; False: there is no password to get another."""

    def doubt(self, token: str) -> bool:
        """Return True if a denial may be due to an expired token."""


class EtcdStream(Generic[Request, Response]):
    """Bidirectional gRPC stream; ``ended`` is called when the stream is closed."""

    def __init__(
        self,
        connection: StreamOwner,
        call: grpc.aio.StreamStreamCall[Request, Response],
        ended: Callable[[], None],
        what: str,
        token: str,
        lost: type[StoreError],
        timeout: float,
    ) -> None:
        self._connection = connection
        self._call = call
        self._ended = ended
        self._open = True
        self._what = what
        self._token = token
        self._lost = lost
        self._timeout = timeout

    async def exchange(self, request: Request) -> Response:
        """Send the first request and return the answer.

        Raises:
            Unavailable: no answer within the connection's timeout.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self.send(request)
                return await self.receive()
        except TimeoutError as error:
            raise self._connection.failure(error, self._what) from error

    async def send(self, request: Request) -> None:
        await self._guarded(self._call.write(request))

    async def receive(self) -> Response:
        answer = await self._guarded(self._call.read())
        if answer is grpc.aio.EOF:
            raise self._lost(f"{self._what}: etcd ended the stream")
        # The type stubs of gRPC do not tell the end of a stream from an answer.
        return cast("Response", answer)

    def refused(self, reason: str) -> StoreError:
        """Return the error for a stream ended by etcd with ``reason``."""
        return self._judge(classify("UNAVAILABLE", reason, what=self._what, write=False))

    def close(self) -> None:
        self._call.cancel()
        if self._open:
            self._open = False
            self._ended()

    async def _guarded(self, step: Awaitable[T]) -> T:
        try:
            return await step
        except FAILURES as error:
            raise self._judge(self._connection.failure(error, self._what)) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The call was cancelled, not this task: the channel is being closed.
            raise self._lost(f"{self._what}: the connection to etcd has been closed") from error

    def _judge(self, error: StoreError) -> StoreError:
        refused = isinstance(error, Unauthenticated) and self._connection.forget(self._token)
        if refused or (isinstance(error, PermissionDenied) and self._connection.doubt(self._token)):
            return self._lost(f"{error} (will authenticate again)")
        return self._lost(str(error)) if isinstance(error, Unavailable) else error
