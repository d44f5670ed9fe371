"""etcd as this project sees it: strings for keys, frozen data for answers, and only the errors of ``errors``.

This module, and ``connection`` and ``wire`` under it, are the only ones that import the etcd client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from etcd3aio import _protobuf as rpc
from etcd3aio.auth import AuthService, PermissionType
from etcd3aio.kv import KVService
from etcd3aio.lease import LeaseService
from etcd3aio.maintenance import MaintenanceService
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from devopsellence.store.connection import EtcdConnection, EtcdStream
from devopsellence.store.errors import Compacted, LeaseLost, Unavailable, WatchLost
from devopsellence.store.keys import Keys
from devopsellence.store.rpc import (
    compare_message,
    key_bytes,
    key_range,
    key_value,
    member,
    operation_message,
    watch_event,
)
from devopsellence.store.settings import Settings
from devopsellence.store.types import (
    MAX_OPERATIONS,
    Compare,
    Delete,
    KeyListing,
    KeyValue,
    Member,
    Put,
    TxnResult,
    WatchBatch,
    WatchEvent,
)

__all__ = [
    "MAX_OPERATIONS",
    "Compare",
    "Delete",
    "Etcd",
    "KeepaliveStream",
    "KeyListing",
    "KeyValue",
    "Member",
    "Put",
    "TxnResult",
    "WatchBatch",
    "WatchEvent",
]

PAGE_SIZE: Final = 500
# A read that one member leaves unanswered is asked again of the next one, still within the call's time.
_READ_SHARE: Final = 0.4


class Etcd:
    """A connection to one cluster; an async context manager, to be used on the event loop that entered it.

    Reads are linearizable and are asked again while they fail, for at most ``timeout`` seconds altogether. Writes are
    sent once; a write waits up to ``timeout`` seconds for a connection, and then as long for its answer.

    Any method raises, besides what it names: Unavailable, Unauthenticated, PermissionDenied, and those that write
    Ambiguous, NoSpace, Rejected.
    """

    def __init__(self, settings: Settings, *, timeout: float = 5.0) -> None:
        self.keys = Keys(settings.prefix)
        self._timeout = timeout
        self._connection = EtcdConnection(settings, timeout=timeout)

    async def __aenter__(self) -> Self:
        """Make the channel; connects in the background.

        Raises:
            SettingsError: a certificate file cannot be read.
        """
        await self._connection.open()
        self._kv = self._connection.service(KVService)
        self._leases = self._connection.service(LeaseService)
        self._auth = self._connection.service(AuthService)
        self._maintenance = self._connection.service(MaintenanceService, leader=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def get(self, key: str) -> KeyValue | None:
        """What ``key`` holds; None if it does not exist."""
        answer = await self._read(f"read {key}", lambda seconds: self._kv.get(key_bytes(key), timeout=seconds))
        return key_value(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str, *, keys_only: bool = False) -> KeyListing:
        """Everything under ``prefix``, which ends with ``/``, at one revision; a name without is that one key.

        With ``keys_only`` the values are empty. Asks in pages, so the answer may be of any size.
        """
        retrying = AsyncRetrying(retry=retry_if_exception_type(Compacted), stop=stop_after_attempt(3), reraise=True)
        return await retrying(self._list, prefix, keys_only)

    async def _list(self, prefix: str, keys_only: bool) -> KeyListing:
        start, end = key_range(prefix)
        items: list[KeyValue] = []
        header: Any = None
        while True:

            async def page(
                seconds: float, first: bytes = start, revision: int = header.revision if header else 0
            ) -> Any:
                return await self._kv.get(
                    first, end, revision=revision, limit=PAGE_SIZE, keys_only=keys_only, timeout=seconds
                )

            answer = await self._read(f"list {prefix}", page)
            header = header or answer.header
            items.extend(key_value(kv) for kv in answer.kvs)
            if not answer.more:
                return KeyListing(tuple(items), header.revision, header.cluster_id, header.raft_term)
            start = bytes(answer.kvs[-1].key) + b"\0"

    async def head(self, prefix: str) -> KeyListing:
        """Where the cluster stands now, without the items. Linearizable; takes no rights beyond those to ``prefix``."""
        start, end = key_range(prefix)
        answer = await self._read(
            f"read the revision at {prefix}",
            lambda seconds: self._kv.get(start, end, count_only=True, timeout=seconds),
        )
        return KeyListing((), answer.header.revision, answer.header.cluster_id, answer.header.raft_term)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write ``value`` at ``key``; returns the revision.

        Raises:
            LeaseLost: there is no such lease.
        """
        answer = await self._write(
            f"write {key}", lambda seconds: self._kv.put(key_bytes(key), value, lease, timeout=seconds)
        )
        return int(answer.header.revision)

    async def delete(self, key: str) -> int:
        """Delete ``key`` if it is there; returns the revision."""
        answer = await self._write(f"delete {key}", lambda seconds: self._kv.delete(key_bytes(key), timeout=seconds))
        return int(answer.header.revision)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        """Apply all ``operations`` if all ``compares`` hold, else none. Sent once, never again by itself.

        Raises:
            ValueError: more than :data:`MAX_OPERATIONS` of either, nothing was sent.
            LeaseLost: an operation names a lease that is gone; nothing was written.
        """
        result, _ = await self.txn_else_read(compares, operations, None)
        return result

    async def txn_else_read(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], key: str | None
    ) -> tuple[TxnResult, KeyValue | None]:
        """:meth:`txn`, and if the compares did not hold, what ``key`` held at that very revision."""
        if len(operations) > MAX_OPERATIONS or len(compares) > MAX_OPERATIONS:
            raise ValueError(
                f"a transaction of {len(compares)} compares and {len(operations)} operations: "
                f"at most {MAX_OPERATIONS} of each"
            )
        conditions = [compare_message(compare) for compare in compares]
        success = [operation_message(operation) for operation in operations]
        failure = [] if key is None else [KVService.txn_op_get(key_bytes(key))]
        answer = await self._write(
            f"transaction on {operations[0].key if operations else 'nothing'}",
            lambda seconds: self._kv.txn(conditions, success, failure, timeout=seconds),
        )
        result = TxnResult(bool(answer.succeeded), int(answer.header.revision))
        if answer.succeeded or not answer.responses:
            return result, None
        found = answer.responses[0].response_range.kvs
        return result, key_value(found[0]) if found else None

    async def grant_lease(self, ttl: int) -> int:
        """Make a lease of ``ttl`` seconds (etcd raises a very short one) and return its id.

        An unanswered request is repeated, and Unavailable in the end: a lease that nobody knows of runs out by itself.
        """
        answer = await self._read(f"grant a lease of {ttl} s", lambda seconds: self._leases.grant(ttl, timeout=seconds))
        return int(answer.ID)

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease and delete what is bound to it; fine if it is gone already. May be repeated."""
        with suppress(LeaseLost):
            await self._read(
                f"revoke lease {lease_id:x}", lambda seconds: self._leases.revoke(lease_id, timeout=seconds)
            )

    async def member(self) -> Member:
        """What one member, whichever it is, says of itself; takes no rights, and costs the others nothing."""
        return member(await self._read("status", lambda seconds: self._maintenance.status(timeout=seconds)))

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Changes under ``prefix`` from ``start_revision`` on, for as long as one stream lives.

        The first batch has no events and says that the watch stands. ``prefix`` is as for :meth:`list`. Does not end
        by itself; close it with ``contextlib.aclosing``. A silent peer is found by the channel's keepalive (15 s).

        Raises:
            Compacted: ``start_revision`` is gone.
            WatchLost: the stream broke, or etcd cancelled the watch.
            PermissionDenied, Unauthenticated, Unavailable: it could not be made.
        """
        start, end = key_range(prefix)
        create = rpc.WatchCreateRequest(
            key=start, range_end=end or b"", start_revision=start_revision, progress_notify=True, fragment=True
        )
        stream = await self._connection.stream(f"watch {prefix}", rpc.WatchStub, "Watch", lost=WatchLost)
        try:
            answer = await stream.exchange(rpc.WatchRequest(create_request=create))
            fragments: list[WatchEvent] = []
            while True:
                if answer.canceled:
                    raise _cancelled(stream, answer)
                fragments.extend(watch_event(event) for event in answer.events)
                # etcd cuts a large answer into fragments; only the last completes its revision.
                if not answer.fragment:
                    header, events = answer.header, tuple(fragments)
                    fragments.clear()
                    progress = not (events or answer.created)
                    yield WatchBatch(int(header.revision), int(header.cluster_id), events, progress)
                answer = await stream.receive()
        finally:
            stream.close()

    async def keepalive(self) -> KeepaliveStream:
        """Open a stream that keeps any number of leases alive."""
        stream = await self._connection.stream("keep leases alive", rpc.LeaseStub, "LeaseKeepAlive", lost=Unavailable)
        return KeepaliveStream(stream)

    async def user_add(self, user: str) -> None:
        """Add a user who has no password: only a certificate with this common name is this user."""
        await self._write(
            f"add user {user}", lambda seconds: self._auth.user_add(user, no_password=True, timeout=seconds)
        )

    async def user_delete(self, user: str) -> None:
        await self._write(f"delete user {user}", lambda seconds: self._auth.user_delete(user, timeout=seconds))

    async def user_grant_role(self, user: str, role: str) -> None:
        await self._write(
            f"grant role {role} to {user}", lambda seconds: self._auth.user_grant_role(user, role, timeout=seconds)
        )

    async def role_add(self, role: str) -> None:
        await self._write(f"add role {role}", lambda seconds: self._auth.role_add(role, timeout=seconds))

    async def role_delete(self, role: str) -> None:
        await self._write(f"delete role {role}", lambda seconds: self._auth.role_delete(role, timeout=seconds))

    async def role_grant(self, role: str, key: str, *, read: bool, write: bool) -> None:
        """Let ``role`` read, write or both: one key, or everything under a prefix, which ends with ``/``."""
        start, end = key_range(key)
        kind = PermissionType.READWRITE if read and write else PermissionType.WRITE if write else PermissionType.READ
        await self._write(
            f"grant {kind.name} on {key} to role {role}",
            lambda seconds: self._auth.role_grant_permission(role, start, end, perm_type=kind, timeout=seconds),
        )

    async def auth_enable(self) -> None:
        """Turn authentication on; fine if it is on already. There must be a user ``root`` with the role ``root``."""
        await self._write("turn authentication on", lambda seconds: self._auth.auth_enable(timeout=seconds))

    async def _read(self, what: str, call: Callable[[float], Awaitable[Any]]) -> Any:
        """Ask until there is an answer, for at most the call's time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout

        async def attempt() -> Any:
            seconds = min(self._timeout * _READ_SHARE, max(deadline - loop.time(), 0.01))
            return await self._connection.ask(what, call, seconds)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Unavailable) and not self._connection.closed),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(self._timeout * 0.95),
            reraise=True,
        )
        return await retrying(attempt)

    async def _write(self, what: str, call: Callable[[float], Awaitable[Any]]) -> Any:
        return await self._connection.ask(what, call, self._timeout, write=True)


class KeepaliveStream:
    """Keeps leases alive; answers come in the order of the requests. Any method raises Unavailable once it broke."""

    def __init__(self, stream: EtcdStream) -> None:
        self._stream = stream

    async def send(self, lease_id: int) -> None:
        """Ask for the lease's full time again."""
        await self._stream.send(rpc.LeaseKeepAliveRequest(ID=lease_id))

    async def receive(self) -> tuple[int, int]:
        """The next answer: lease id, and its full time in seconds, 0 if it is gone."""
        answer = await self._stream.receive()
        return int(answer.ID), max(int(answer.TTL), 0)

    def close(self) -> None:
        self._stream.close()


def _cancelled(stream: EtcdStream, answer: Any) -> Exception:
    if answer.compact_revision:
        return Compacted(int(answer.compact_revision))
    # 3.4 writes the gRPC status into the reason; etcd's own text is what tells the cases apart.
    return stream.refused(answer.cancel_reason or "etcd cancelled it without a reason")
