"""Writes Certificate records: fenced by the leadership, and only over what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import Moment
from devopsellence.controller.reconcile.reconciler import OutdatedError, Reader, View, Writer
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Fenced, LeaseLost, MalformedRecord, StoreError
from devopsellence.store.etcd import Compare, Delete, Put
from devopsellence.store.events import Journal
from devopsellence.store.keys import EnvironmentRef

_log = structlog.get_logger()


class Superseded(Exception):
    """The record is no longer about what is to be written into it: it was deleted, or somebody began anew."""


class Records:
    """The Certificate records as one leader writes them."""

    def __init__(
        self, etcd: Reader, caches: View, writer: Writer, journal: Journal, clock: Callable[[], Moment]
    ) -> None:
        self._etcd = etcd
        self._caches = caches
        self._writer = writer
        self._journal = journal
        self._clock = clock

    async def replace(
        self, ref: EnvironmentRef, host: str, revision: int, message: pb.Certificate | None, *events: pb.Event
    ) -> None:
        """Write ``message`` (None: delete) over what was written at ``revision`` (0: nothing), with ``events``.

        Raises:
            OutdatedError: something else is there by now.
            StoreError: etcd could not be written.
        """
        key = self._caches.keys.certificate(ref, host)
        operations: list[Put | Delete] = [Delete(key)]
        if message is not None:
            value = encode(message)
            self._caches.expect([(key, value, message)])
            operations = [Put(key, value)]
        now = self._clock()
        operations += await self._journal.puts(ref, events, now.wall, now.monotonic)
        try:
            result = await self._writer.txn([Compare.unmodified(key, revision)], operations)
        except LeaseLost:
            self._journal.forget_lease()
            raise
        if not result.succeeded:
            raise OutdatedError("a certificate was written meanwhile")
        _tell(ref, host, events)

    async def edit(
        self,
        ref: EnvironmentRef,
        host: str,
        request_id: str,
        change: Callable[[pb.Certificate], tuple[pb.Certificate, Sequence[pb.Event]]],
    ) -> None:
        """Have ``change`` make another record of the one that is there, as long as its key request is ``request_id``.

        Tries until it is written: what others write meanwhile is kept.

        Raises:
            Superseded: it is about another request by now, or cannot be read.
            Fenced: another controller leads.
        """

        async def attempt() -> None:
            key = self._caches.keys.certificate(ref, host)
            found = await self._etcd.get(key)
            if found is None:
                raise Superseded(f"{key} is gone")
            try:
                certificate = decode(pb.Certificate, key, found.value)
            except MalformedRecord as error:
                raise Superseded(str(error)) from error
            if certificate.issuance.key_request.id != request_id:
                raise Superseded(f"{key} is about another request")
            made, events = change(certificate)
            await self.replace(ref, host, found.mod_revision, made, *events)

        # Without an end: the term has one, and whoever waits is cancelled with it.
        await AsyncRetrying(
            retry=retry_if_exception(_may_pass), wait=wait_random_exponential(multiplier=0.05, min=0.01, max=10)
        )(attempt)


def _may_pass(error: BaseException) -> bool:
    # A write without an answer may have happened: reading back tells.
    return isinstance(error, StoreError | OutdatedError) and not isinstance(error, Fenced)


def _tell(ref: EnvironmentRef, host: str, events: Sequence[pb.Event]) -> None:
    for event in events:
        level = _log.warning if event.severity == pb.Event.WARNING else _log.info
        level("decided", environment=str(ref), host=host, code=event.code, reason=event.message)
