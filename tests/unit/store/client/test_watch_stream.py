from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.watch_stream import WAITING_BYTES, Watch
from devopsellence.store.errors import WatchLost


async def test_watch_whose_answers_are_not_read_is_lost() -> None:
    watch = Watch("watch /k/", 1, cast("Any", None))
    event = rpc.Event(kv=rpc.KeyValue(value=b"x" * (WAITING_BYTES // 8)))
    answer = rpc.WatchResponse(events=[event])
    for _ in range(7):
        watch.put(answer)
    assert await watch.next() == answer
    for _ in range(2):
        watch.put(answer)
    with pytest.raises(WatchLost, match="watch /k/: answers were not read in time"):
        await asyncio.wait_for(watch.next(), 1)
