"""Releases that are there already."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Environment, Release
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def newest_release(etcd: Etcd, ref: EnvironmentRef) -> Release | None:
    """The environment's newest release; None before the first.

    Raises:
        MalformedRecord: the environment's or the release's record cannot be read.
    """
    key = etcd.keys.environment(ref)
    found = await etcd.get(key)
    number = decode(Environment, key, found.value).latest_release if found else 0
    return await read_release(etcd, ref, number) if number else None


async def read_release(etcd: Etcd, ref: EnvironmentRef, number: int) -> Release | None:
    """Release ``number``; None when there is none.

    Raises:
        MalformedRecord: its record cannot be read.
    """
    key = etcd.keys.release(ref, number)
    found = await etcd.get(key)
    return decode(Release, key, found.value) if found else None
