"""Read, change, write: one transaction that holds only if nobody wrote in between."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Final, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from devopsellence.api.v1.stored_pb2 import Environment, Event
from devopsellence.cli.output import CliError
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Ambiguous
from devopsellence.store.etcd import Compare, Delete, Etcd, KeyValue, Put
from devopsellence.store.events import LEASE_TTL_SECONDS, event_id
from devopsellence.store.keys import EnvironmentRef

M = TypeVar("M", bound=Message)
_ATTEMPTS: Final = 10


class WriteConflict(Exception):
    """Someone wrote in between; read again."""


def retrying() -> AsyncRetrying:
    """Ten attempts within a few seconds, for whoever lost a race: a handful of people and pipelines, not a crowd."""
    return AsyncRetrying(
        retry=retry_if_exception_type((WriteConflict, Ambiguous)),
        wait=wait_random_exponential(multiplier=0.05, max=1),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )


async def change(
    etcd: Etcd,
    key: str,
    kind: type[M],
    edit: Callable[[M | None], M],
    *,
    also: Callable[[M], Sequence[Put]] = lambda _: (),
) -> M:
    """Store what ``edit`` makes of what is at ``key`` (None: nothing is) and return it.

    ``edit`` may be called several times and must return a message of its own; what equals the stored one is not
    written. ``also`` gives further keys to write in the same transaction.

    Raises:
        MalformedRecord: what is there cannot be read, so it is not overwritten.
        CliError: ``busy``: others kept writing; or whatever ``edit`` raises.
    """
    try:
        async for attempt in retrying():
            with attempt:
                return await _change_once(etcd, key, kind, edit, also)
    except WriteConflict as error:
        raise CliError("busy", f"{key} was changed by others {_ATTEMPTS} times in a row; try again") from error
    raise AssertionError("unreachable")


async def _change_once(
    etcd: Etcd, key: str, kind: type[M], edit: Callable[[M | None], M], also: Callable[[M], Sequence[Put]]
) -> M:
    found = await etcd.get(key)
    before = decode(kind, key, found.value) if found else None
    after = edit(before)
    # This is also how an unanswered write of ours is found to have happened: there is nothing left to change.
    if after == before:
        return after
    unchanged = Compare.unmodified(key, found.mod_revision) if found else Compare.absent(key)
    result = await etcd.txn([unchanged], [Put(key, encode(after)), *also(after)])
    if not result.succeeded:
        raise WriteConflict
    return after


async def delete(etcd: Etcd, key: str, told: Put, missing: CliError) -> None:
    """Delete what is at ``key``, also what cannot be read, and write ``told`` with it.

    Raises:
        CliError: ``missing``: nothing is there. ``busy``: others kept writing.
    """
    tried = False
    try:
        async for attempt in retrying():
            with attempt:
                found = await etcd.get(key)
                if found is not None:
                    tried = True
                    await _delete_once(etcd, found, told)
                elif not tried:
                    # After an attempt it is as it should be: an unanswered write of ours did it, or somebody else.
                    raise missing
    except WriteConflict as error:
        raise CliError("busy", f"{key} kept being changed by others; try again") from error


async def _delete_once(etcd: Etcd, found: KeyValue, told: Put) -> None:
    result = await etcd.txn([Compare.unmodified(found.key, found.mod_revision)], [Delete(found.key), told])
    if not result.succeeded:
        raise WriteConflict


def now() -> Timestamp:
    """This moment by this machine's clock, for people to read."""
    stamp = Timestamp()
    stamp.FromNanoseconds(time.time_ns() // 1000 * 1000)
    return stamp


def current_user() -> str:
    """Who runs this, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def new_environment(ref: EnvironmentRef) -> Environment:
    """Return the record of an environment that does not exist yet."""
    return Environment(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        created_at=now(),
    )


async def event_put(etcd: Etcd, ref: EnvironmentRef, event: Event, *, name: str = "") -> Put:
    """What writes ``event`` so that it is gone after a day; ``name`` is its id if the caller wants to know it."""
    event.at.CopyFrom(now())
    event.source = "cli"
    lease = await etcd.grant_lease(LEASE_TTL_SECONDS)
    name = name or event_id(event.at.ToDatetime(UTC))
    return Put(etcd.keys.event(ref, name), encode(event), lease=lease)
