"""Pages of keys: those that are asked for in one turn of the event loop are read in one request.

An agent lists all that it watches after a reconnection; a list for each watch would be thousands of requests at a
gateway when another one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.connection import Stubs
from devopsellence.store.errors import StoreError, Unavailable

#: Operations that a gateway takes in one transaction.
_MOST_PAGES: Final = 16

_Pending = tuple[str, rpc.RangeRequest, "asyncio.Future[rpc.RangeResponse]"]


class PageReader:
    """Reader of pages. ``read``: sends a request to a method of one of the stubs until it is answered.

    Without ``joins`` each page is a request of its own.
    """

    def __init__(self, read: Callable[[str, Callable[[Stubs], Any], Any], Awaitable[Any]], *, joins: bool) -> None:
        self._read = read
        self._joins = joins
        self._pending: list[_Pending] = []
        self._reading: set[asyncio.Task[None]] = set()

    async def read(self, what: str, page: rpc.RangeRequest) -> rpc.RangeResponse:
        """Return a page, with the header of the answer that it came with.

        Raises:
            StoreError: as ``read`` of this reader, about ``what``.
        """
        if not self._joins:
            answered: rpc.RangeResponse = await self._read(what, lambda stubs: stubs.kv.Range, page)
            return answered
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[rpc.RangeResponse] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._flush)
        self._pending.append((what, page, answer))
        return await answer

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for start in range(0, len(pending), _MOST_PAGES):
            task = asyncio.ensure_future(self._read_all(pending[start : start + _MOST_PAGES]))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read_all(self, pending: list[_Pending]) -> None:
        try:
            if len(pending) == 1 or not await self._read_together(pending):
                await asyncio.gather(*(self._read_alone(*one) for one in pending))
        finally:
            for _, _, answer in pending:
                answer.cancel()

    async def _read_together(self, pending: list[_Pending]) -> bool:
        """Read pages in one transaction; False if it is refused, maybe because of one of them."""
        request = rpc.TxnRequest()
        for _, page, _ in pending:
            request.success.add().request_range.CopyFrom(page)
        try:
            answer = await self._read(pending[0][0], lambda stubs: stubs.kv.Txn, request)
        except Unavailable as error:
            for what, _, waiting in pending:
                _fail(waiting, type(error)(f"{what}: {error}"))
            return True
        except StoreError:
            return False
        for (_, _, waiting), part in zip(pending, answer.responses, strict=True):
            page = part.response_range
            page.header.CopyFrom(answer.header)
            if not waiting.done():
                waiting.set_result(page)
        return True

    async def _read_alone(self, what: str, page: rpc.RangeRequest, waiting: asyncio.Future[rpc.RangeResponse]) -> None:
        try:
            answer = await self._read(what, lambda stubs: stubs.kv.Range, page)
        except StoreError as error:
            _fail(waiting, error)
        else:
            if not waiting.done():
                waiting.set_result(answer)


def _fail(waiting: asyncio.Future[rpc.RangeResponse], error: StoreError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
