"""Server of etcd's watch protocol alone, whose answers a test decides on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.settings import Settings


@asynccontextmanager
async def watch_server(watch: Callable[[AsyncIterator[rpc.WatchRequest], Any], Any]) -> AsyncIterator[Settings]:
    """Serve the method Watch by ``watch``, a coroutine or an asynchronous generator."""
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(
        watch, rpc.WatchRequest.FromString, rpc.WatchResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("etcdserverpb.Watch", {"Watch": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Settings((f"127.0.0.1:{port}",))
    finally:
        await server.stop(None)
