"""Stored releases: the newest, or a given number."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Environment, Release
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def newest_release(etcd: Etcd, ref: EnvironmentRef) -> Release | None:
    """Return the newest release of an environment; None before the first.

    Raises:
        MalformedRecord: the record of the environment or of the release cannot be read.
    """
    key = etcd.keys.environment(ref)
    stored = await etcd.get(key)
    number = decode(Environment, key, stored.value).latest_release if stored else 0
    return await read_release(etcd, ref, number) if number else None


async def read_release(etcd: Etcd, ref: EnvironmentRef, number: int) -> Release | None:
    """Return release ``number``; None if there is no such release.

    Raises:
        MalformedRecord: the record cannot be read.
    """
    key = etcd.keys.release(ref, number)
    stored = await etcd.get(key)
    return decode(Release, key, stored.value) if stored else None
