"""Stored releases: the one that runs, those in use, or a given number."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Environment, Release, Rollout
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.cli.store.snapshot import ReleaseNumbers, release_numbers
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def read_numbers(etcd: Etcd, ref: EnvironmentRef) -> ReleaseNumbers:
    """Return the numbers of the newest release, of the rollout target and of the releases in use.

    Raises:
        MalformedRecord: the record of the environment or of the rollout cannot be read.
    """
    key, rollout_key = etcd.keys.environment(ref), etcd.keys.rollout(ref)
    stored, rollout = await concurrently([etcd.get(key), etcd.get(rollout_key)])
    return release_numbers(
        decode(Environment, key, stored.value).latest_release if stored else 0,
        decode(Rollout, rollout_key, rollout.value) if rollout else None,
    )


async def target_release(etcd: Etcd, ref: EnvironmentRef) -> Release | None:
    """Return the running release, the rollout target; None before the first, or if it is not stored.

    Raises:
        MalformedRecord: a record of the environment, its rollout or the release cannot be read.
    """
    target = (await read_numbers(etcd, ref)).target
    return await read_release(etcd, ref, target) if target else None


async def releases_in_use(etcd: Etcd, ref: EnvironmentRef) -> list[Release]:
    """Return the releases in use, the rollout target first, then the newest; without those that are not stored.

    Raises:
        MalformedRecord: a record of the environment, its rollout or one of the releases cannot be read.
    """
    numbers = await read_numbers(etcd, ref)
    releases = await concurrently(read_release(etcd, ref, number) for number in in_order(numbers))
    return [release for release in releases if release is not None]


async def readable_in_use(reader: Reader, ref: EnvironmentRef) -> list[Release]:
    """Return the same as :func:`releases_in_use`, without unreadable records: they are in ``reader.problems``."""
    keys = reader.etcd.keys
    environment = await reader.get(keys.environment(ref), Environment)
    rollout = await reader.get(keys.rollout(ref), Rollout)
    numbers = release_numbers(environment.latest_release if environment else 0, rollout)
    releases = await reader.get_many({str(number): keys.release(ref, number) for number in in_order(numbers)}, Release)
    return list(releases.values())


def in_order(numbers: ReleaseNumbers) -> list[int]:
    """Return the numbers in use, the rollout target first, then the newest. Pure."""
    return sorted(numbers.in_use, key=lambda number: (number != numbers.target, -number))


async def read_release(etcd: Etcd, ref: EnvironmentRef, number: int) -> Release | None:
    """Return release ``number``; None if there is no such release.

    Raises:
        MalformedRecord: the record cannot be read.
    """
    key = etcd.keys.release(ref, number)
    stored = await etcd.get(key)
    return decode(Release, key, stored.value) if stored else None
