"""Client of etcd: string keys, frozen data as results, and only the errors of ``errors``.

Only this module and ``client`` import etcd's messages and stubs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import grpc.aio
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditReport
from devopsellence.api.v1.certificates_pb2 import JoinRequest, RenewRequest, SignRequest
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.connection import EtcdConnection, Stubs
from devopsellence.store.client.pages import PageReader
from devopsellence.store.client.rpc import (
    compare_message,
    key_bytes,
    key_range,
    key_value,
    member,
    operation_message,
    watch_event,
)
from devopsellence.store.client.stream import EtcdStream, Request, Response
from devopsellence.store.client.watch_stream import Watch, WatchStreams
from devopsellence.store.errors import Compacted, LeaseLost, Unavailable
from devopsellence.store.keys import Keys
from devopsellence.store.settings import Settings
from devopsellence.store.size import check_writes
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
#: Seconds from the loss of watches until what they were about is listed again. A random time, so that a thousand
#: agents do not list at once.
VERIFY_SECONDS: Final = (1.0, 5.0)
# Watches that are opened less than this before the next verification have another one.
_LEAST_VERIFY_SECONDS: Final = 0.5
# Share of a call's time that one member has to answer a read, before the next member is asked.
_READ_SHARE: Final = 0.4


class Etcd:
    """Connection to one cluster; an async context manager, to be used on the event loop that entered the context.

    Reads are linearizable and retried for at most ``timeout`` seconds altogether. Writes are sent once; a write waits
    up to ``timeout`` seconds for a connection, then as long for an answer.

    Besides documented errors, every method raises Unavailable, Unauthenticated, PermissionDenied, and every write also
    Ambiguous, NoSpace, Rejected, and RecordTooLarge before anything is sent.
    """

    def __init__(self, settings: Settings, *, timeout: float = 5.0, joins_lists: bool = False) -> None:
        """``joins_lists``: lists asked for at the same time are one request, for a client that may read all of each
        prefix; to others a gateway refuses that."""
        self.keys = Keys(settings.prefix)
        self.settings = settings
        self._timeout = timeout
        self._connection = EtcdConnection(settings, timeout=timeout)
        self._watches = WatchStreams(self._connection)
        self._pages = PageReader(self._read, joins=joins_lists)
        self._verify_at = 0.0

    async def __aenter__(self) -> Self:
        """Open the channel; connects in the background.

        Raises:
            SettingsError: a certificate file cannot be read.
        """
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    def use_endpoints(self, endpoints: tuple[str, ...]) -> None:
        """Use ``endpoints`` from the next call and the next stream on; open watches and keepalives go on as they are.

        Raises:
            SettingsError: they cannot be used together; nothing has changed.
        """
        self._connection.use_endpoints(endpoints)

    async def get(self, key: str) -> KeyValue | None:
        """Read ``key``; None if ``key`` does not exist."""
        answer = await self._read(f"read {key}", lambda stubs: stubs.kv.Range, rpc.RangeRequest(key=key_bytes(key)))
        return key_value(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str, *, keys_only: bool = False) -> KeyListing:
        """List all keys under ``prefix`` (ends with ``/``, otherwise one key) at one revision.

        With ``keys_only`` the values are empty. Reads in pages, so the listing may be of any size.
        """
        retrying = AsyncRetrying(retry=retry_if_exception_type(Compacted), stop=stop_after_attempt(3), reraise=True)
        return await retrying(self._list, prefix, keys_only)

    async def _list(self, prefix: str, keys_only: bool) -> KeyListing:
        start, end = key_range(prefix)
        items: list[KeyValue] = []
        page = rpc.RangeRequest(key=start, range_end=end, limit=PAGE_SIZE, keys_only=keys_only)
        header: rpc.ResponseHeader | None = None
        while True:
            answer = await self._pages.read(f"list {prefix}", page)
            header = header or answer.header
            items.extend(key_value(kv) for kv in answer.kvs)
            if not answer.more:
                return KeyListing(tuple(items), header.revision, header.cluster_id, header.raft_term)
            page.key, page.revision = answer.kvs[-1].key + b"\0", header.revision

    def next_verification(self) -> float:
        """Return the time, on the loop's clock, at which watches opened now should be verified by a list.

        Watches that are opened again together are verified together: lists of one moment are one request.
        """
        now = asyncio.get_running_loop().time()
        if self._verify_at < now + _LEAST_VERIFY_SECONDS:
            self._verify_at = now + random.uniform(*VERIFY_SECONDS)  # noqa: S311
        return self._verify_at

    async def head(self, prefix: str) -> KeyListing:
        """Read the current revision of the cluster. Linearizable; needs no more than read access to ``prefix``."""
        start, end = key_range(prefix)
        request = rpc.RangeRequest(key=start, range_end=end, count_only=True)
        answer = await self._read(f"read the revision at {prefix}", lambda stubs: stubs.kv.Range, request)
        return KeyListing((), answer.header.revision, answer.header.cluster_id, answer.header.raft_term)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write ``value`` at ``key``; return the revision.

        Raises:
            LeaseLost: the lease does not exist.
        """
        check_writes([(key, value)])
        request = rpc.PutRequest(key=key_bytes(key), value=value, lease=lease)
        answer = await self._write(f"write {key}", lambda stubs: stubs.kv.Put, request)
        return answer.header.revision

    async def delete(self, key: str) -> int:
        """Delete ``key`` if the key exists; return the revision."""
        request = rpc.DeleteRangeRequest(key=key_bytes(key))
        answer = await self._write(f"delete {key}", lambda stubs: stubs.kv.DeleteRange, request)
        return answer.header.revision

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        """Apply all ``operations`` if all ``compares`` hold, else none. Sent once, never retried.

        Raises:
            ValueError: more than :data:`MAX_OPERATIONS` compares or operations; nothing was sent.
            LeaseLost: an operation names an expired lease; nothing was written.
        """
        result, _ = await self.txn_else_read(compares, operations, None)
        return result

    async def txn_else_read(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], key: str | None
    ) -> tuple[TxnResult, KeyValue | None]:
        """Run :meth:`txn`; if the compares did not hold, also return ``key`` as of the same revision."""
        if len(operations) > MAX_OPERATIONS or len(compares) > MAX_OPERATIONS:
            raise ValueError(
                f"a transaction of {len(compares)} compares and {len(operations)} operations: "
                f"at most {MAX_OPERATIONS} of each"
            )
        check_writes((operation.key, operation.value) for operation in operations if isinstance(operation, Put))
        request = rpc.TxnRequest(
            compare=[compare_message(compare) for compare in compares],
            success=[operation_message(operation) for operation in operations],
        )
        if key is not None:
            request.failure.add().request_range.key = key_bytes(key)
        what = f"transaction on {operations[0].key if operations else 'nothing'}"
        answer = await self._write(what, lambda stubs: stubs.kv.Txn, request)
        result = TxnResult(answer.succeeded, answer.header.revision)
        if answer.succeeded or not answer.responses:
            return result, None
        items = answer.responses[0].response_range.kvs
        return result, key_value(items[0]) if items else None

    async def grant_lease(self, ttl: int) -> int:
        """Create a lease of ``ttl`` seconds (etcd raises a very short TTL) and return the lease id.

        Unanswered requests are retried: a lease created unnoticed expires by itself.
        """
        request = rpc.LeaseGrantRequest(TTL=ttl)
        answer = await self._read(f"grant a lease of {ttl} s", lambda stubs: stubs.lease.LeaseGrant, request)
        return answer.ID

    async def revoke_lease(self, lease_id: int) -> None:
        """Revoke a lease and delete all keys bound to the lease. Idempotent."""
        with suppress(LeaseLost):
            request = rpc.LeaseRevokeRequest(ID=lease_id)
            await self._read(f"revoke lease {lease_id:x}", lambda stubs: stubs.lease.LeaseRevoke, request)

    async def member(self) -> Member:
        """Read the status of any one member; needs no permission, and puts no load on the rest of the cluster."""
        answer = await self._read("status", lambda stubs: stubs.maintenance.Status, rpc.StatusRequest(), leader=False)
        return member(answer)

    async def report_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Report calls of this node's API to a gateway, which has stored them on return. etcd itself cannot do that.

        Sent again, the same entries are known by their ids, so no error of this is Ambiguous.
        """
        report = AuditReport(entries=entries)
        what = "report to the audit trail"
        await self._connection.ask(what, lambda stubs: stubs.audit.Report, report, self._timeout, leader=False)

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Watch changes under ``prefix`` from ``start_revision`` on, until the stream of all watches breaks.

        The first batch has no events and confirms the watch. ``prefix`` is as for :meth:`list`. The generator does not
        end by itself; close with ``contextlib.aclosing``. The channel's keepalive detects a dead member within 15 s.

        Raises:
            Compacted: ``start_revision`` is compacted.
            WatchLost: the stream broke, or etcd cancelled the watch.
            PermissionDenied, Unauthenticated, Unavailable: the watch could not be created.
        """
        start, end = key_range(prefix)
        create = rpc.WatchCreateRequest(
            key=start, range_end=end, start_revision=start_revision, progress_notify=True, fragment=True
        )
        watch, answer = await self._watches.open(f"watch {prefix}", create)
        try:
            fragments: list[WatchEvent] = []
            while True:
                if answer.canceled:
                    raise _cancelled(watch, answer)
                fragments.extend(watch_event(event) for event in answer.events)
                # etcd cuts a large answer into fragments; only the last completes its revision.
                if not answer.fragment:
                    header, events = answer.header, tuple(fragments)
                    fragments.clear()
                    progress = not (events or answer.created)
                    yield WatchBatch(header.revision, header.cluster_id, events, progress)
                answer = await watch.next()
        finally:
            watch.close()

    async def keepalive(self) -> KeepaliveStream:
        """Open a keepalive stream for any number of leases."""
        stream = await self._connection.stream(
            "keep leases alive", lambda stubs: stubs.lease.LeaseKeepAlive, lost=Unavailable
        )
        return KeepaliveStream(stream)

    async def renew_certificate(self, csr: bytes) -> bytes:
        """Have a gateway sign a certificate for this client's identity; ``csr`` is a signing request (DER).

        Returns:
            the certificate and the authority behind it, as PEM.

        Raises:
            Unavailable: NotServed if the endpoint signs no certificates. Rejected: the request is not accepted.
        """
        request = RenewRequest(csr=csr)
        return (await self._write("renew the certificate", lambda stubs: stubs.certificates.Renew, request)).chain

    async def renew_router_certificate(self, csr: bytes) -> bytes:
        """Have a gateway sign a certificate for the router of this node, as :meth:`renew_certificate` does.

        Raises:
            Unavailable, Rejected: as there. PermissionDenied: this client is no node.
        """
        what = "renew the router's certificate"
        return (await self._write(what, lambda stubs: stubs.certificates.RenewRouter, RenewRequest(csr=csr))).chain

    async def sign_certificate(self, csr: bytes, identity: str, life: timedelta | None = None) -> bytes:
        """Have a gateway sign a certificate for a node, an operator or a join token, as :meth:`renew_certificate` does.

        Raises:
            Unavailable, Rejected: as there. PermissionDenied: this client may not have it signed.
        """
        request = SignRequest(csr=csr, identity=identity)
        if life is not None:
            request.life.FromTimedelta(life)
        what = f"sign a certificate for {identity}"
        return (await self._write(what, lambda stubs: stubs.certificates.Sign, request)).chain

    async def join(self, csr: bytes, node: str) -> bytes:
        """Have a gateway sign the certificate of ``node``, with the certificate of a join token as this client's.

        It may be asked again for the same key, so an answer that was lost loses nothing.

        Raises:
            Unavailable, Rejected: as by :meth:`renew_certificate`. PermissionDenied: the token is void or used.
        """
        # The status that other calls ask for to wait for a connection is refused to a join token.
        await self._connection.opened("join", self._timeout)
        request = JoinRequest(csr=csr, node=node)
        return (await self._write("join", lambda stubs: stubs.certificates.Join, request)).chain

    async def _read(
        self,
        what: str,
        method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        leader: bool = True,
    ) -> Response:
        """Send a read until answered, for at most ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout

        async def attempt() -> Response:
            seconds = min(self._timeout * _READ_SHARE, max(deadline - loop.time(), 0.01))
            return await self._connection.ask(what, method, request, seconds, leader=leader)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Unavailable) and not self._connection.closed),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(self._timeout * 0.95),
            reraise=True,
        )
        return await retrying(attempt)

    async def _write(
        self,
        what: str,
        method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        return await self._connection.ask(what, method, request, self._timeout, write=True)


class KeepaliveStream:
    """Keepalive stream; answers arrive in request order. Methods raise Unavailable once the stream broke."""

    def __init__(self, stream: EtcdStream[rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse]) -> None:
        self._stream = stream

    async def send(self, lease_id: int) -> None:
        """Send a keepalive of a lease."""
        await self._stream.send(rpc.LeaseKeepAliveRequest(ID=lease_id))

    async def receive(self) -> tuple[int, int]:
        """Return the next answer: lease id and TTL in seconds, 0 if the lease is gone."""
        answer = await self._stream.receive()
        return answer.ID, max(answer.TTL, 0)

    def close(self) -> None:
        self._stream.close()


def _cancelled(watch: Watch, answer: rpc.WatchResponse) -> Exception:
    if answer.compact_revision:
        return Compacted(answer.compact_revision)
    # etcd 3.4 writes the gRPC status into the reason; only etcd's own text distinguishes the cases.
    return watch.refused(answer.cancel_reason or "etcd cancelled the watch without a reason")
