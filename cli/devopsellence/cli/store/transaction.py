"""Optimistic transactions: read a record, edit it, write it back only if the record is unchanged in etcd."""

from __future__ import annotations

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
from devopsellence.store.size import bounded

M = TypeVar("M", bound=Message)
_ATTEMPTS: Final = 10


class WriteConflict(Exception):
    """The record changed in etcd since the read; read again and retry."""


def retrying() -> AsyncRetrying:
    """Return the retry policy after a write conflict: ten attempts within a few seconds, with random pauses."""
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
    also: Callable[[M], Sequence[Put | Delete]] = lambda _: (),
) -> M:
    """Replace the record at ``key`` by the result of ``edit`` and return the new record.

    ``edit`` gets the stored record (None if absent), may be called several times and must return a new message; an
    unchanged record is not written. ``also`` returns further keys to write or delete in the same transaction.

    Raises:
        MalformedRecord: the stored record is unreadable and therefore not overwritten.
        CliError: ``busy``: the record kept changing; or any error raised by ``edit``.
    """
    try:
        async for attempt in retrying():
            with attempt:
                return await _change_once(etcd, key, kind, edit, also)
    except WriteConflict as error:
        raise CliError("busy", f"{key} was changed by somebody else {_ATTEMPTS} times in a row; try again") from error
    raise AssertionError("unreachable")


async def _change_once(
    etcd: Etcd, key: str, kind: type[M], edit: Callable[[M | None], M], also: Callable[[M], Sequence[Put | Delete]]
) -> M:
    stored = await etcd.get(key)
    before = decode(kind, key, stored.value) if stored else None
    after = edit(before)
    # Also the case after an unanswered write that did happen: nothing is left to change.
    if after == before:
        return after
    unchanged = Compare.unmodified(key, stored.mod_revision) if stored else Compare.absent(key)
    result = await etcd.txn([unchanged], [Put(key, encode(after)), *also(after)])
    if not result.succeeded:
        raise WriteConflict
    return after


async def delete(etcd: Etcd, key: str, event: Put, missing: CliError) -> None:
    """Delete the record at ``key``, even if unreadable, and write ``event`` in the same transaction.

    Raises:
        CliError: ``missing`` if there is no record; ``busy``: the record kept changing.
    """
    tried = False
    try:
        async for attempt in retrying():
            with attempt:
                stored = await etcd.get(key)
                if stored is not None:
                    tried = True
                    await _delete_once(etcd, stored, event)
                elif not tried:
                    # Absent after an attempt means done: by an unanswered write of this process or by somebody else.
                    raise missing
    except WriteConflict as error:
        raise CliError("busy", f"{key} kept being changed by somebody else; try again") from error


async def _delete_once(etcd: Etcd, stored: KeyValue, event: Put) -> None:
    result = await etcd.txn([Compare.unmodified(stored.key, stored.mod_revision)], [Delete(stored.key), event])
    if not result.succeeded:
        raise WriteConflict


def now() -> Timestamp:
    """Return the current time by the clock of this machine, to the microsecond; for display only."""
    stamp = Timestamp()
    stamp.FromNanoseconds(time.time_ns() // 1000 * 1000)
    return stamp


def new_environment(ref: EnvironmentRef) -> Environment:
    """Return the record of an environment that does not exist yet."""
    return Environment(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        created_at=now(),
    )


async def event_put(etcd: Etcd, ref: EnvironmentRef, event: Event, *, name: str = "") -> Put:
    """Return the write of ``event`` with a lease of a day; ``name`` is the event id, chosen here by default."""
    event.at.CopyFrom(now())
    event.source = "cli"
    lease = await etcd.grant_lease(LEASE_TTL_SECONDS)
    name = name or event_id(event.at.ToDatetime(UTC))
    return Put(etcd.keys.event(ref, name), encode(bounded(event)), lease=lease)
