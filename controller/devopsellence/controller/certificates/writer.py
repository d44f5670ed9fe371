"""Writer of Certificate records: fenced by the leadership, and only over the revision that was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.reconcile.observe import KeyReader
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Fenced, MalformedRecord, StoreError
from devopsellence.store.etcd import Compare, Delete, Put
from devopsellence.store.fenced import FencedWriter, Outdated, Written, log_events
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.size import RecordTooLarge


class Superseded(Exception):
    """The record was deleted or belongs to a newer key request by now."""


class CertificateWriter:
    """Writer of Certificate records for one leader."""

    def __init__(self, etcd: KeyReader, keys: Keys, writer: FencedWriter, clock: Callable[[], Now]) -> None:
        self._etcd = etcd
        self._keys = keys
        self._writer = writer
        self._clock = clock

    async def replace(
        self, ref: EnvironmentRef, host: str, revision: int, message: pb.Certificate | None, *events: pb.Event
    ) -> None:
        """Write ``message`` (None: delete) over the record of ``revision`` (0: absent), with ``events``.

        Raises:
            Outdated: the record has another revision by now, or a new record's environment was deleted.
            StoreError: etcd could not be written.
        """
        key = self._keys.certificate(ref, host)
        operations: list[Put | Delete] = [Delete(key)]
        written: list[Written] = []
        if message is not None:
            value = encode(message)
            written = [(key, value, message)]
            operations = [Put(key, value)]
        operations += await self._writer.event_puts(ref, events, self._clock())
        compares = [Compare.unmodified(key, revision)]
        if message is not None and not revision:
            # A copy of the environment that is older than its deletion must not bring a record back.
            compares.append(Compare.exists(self._keys.environment(ref)))
        await self._writer.commit(compares, operations, written, "a certificate was written meanwhile")
        log_events(ref, events, host=host)

    async def edit(
        self,
        ref: EnvironmentRef,
        host: str,
        request_id: str,
        change: Callable[[pb.Certificate], tuple[pb.Certificate, Sequence[pb.Event]]],
    ) -> None:
        """Replace the record by the result of ``change``, as long as its key request is ``request_id``.

        Retries until the record is written, so that concurrent writes are kept.

        Raises:
            Superseded: the record belongs to another request by now, or cannot be read.
            RecordTooLarge: etcd would refuse the changed record.
            Fenced: another controller leads.
        """

        async def attempt() -> None:
            key = self._keys.certificate(ref, host)
            stored = await self._etcd.get(key)
            if stored is None:
                raise Superseded(f"{key} is gone")
            try:
                certificate = decode(pb.Certificate, key, stored.value)
            except MalformedRecord as error:
                raise Superseded(str(error)) from error
            if certificate.issuance.key_request.id != request_id:
                raise Superseded(f"{key} is about another request")
            changed, events = change(certificate)
            await self.replace(ref, host, stored.mod_revision, changed, *events)

        # No limit of attempts: the caller is cancelled at the end of the term.
        await AsyncRetrying(
            retry=retry_if_exception(_may_pass), wait=wait_random_exponential(multiplier=0.05, min=0.01, max=10)
        )(attempt)


def _may_pass(error: BaseException) -> bool:
    # A write without an answer may have happened: the next read tells.
    return isinstance(error, StoreError | Outdated) and not isinstance(error, Fenced | RecordTooLarge)
