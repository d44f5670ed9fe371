"""Installing and removing certificates in etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.age import EncryptionError, encrypt
from devopsellence.api.v1.stored_pb2 import Certificate, Event
from devopsellence.cli.ingress.pem import InstallableCertificate
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import identity, recipients
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.items import CertificateKeyItem
from devopsellence.cli.secrets.sealing import sealing_recipients
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.store.reader import concurrently
from devopsellence.cli.util.text import few
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Etcd, KeyValue, Put
from devopsellence.store.keys import EnvironmentRef

# One operation of a transaction is left for the event.
_BATCH: Final = MAX_OPERATIONS - 1


@dataclass(frozen=True)
class InstalledCertificates:
    """Hosts with a changed certificate (``written``), and attached nodes without an age key (``keyless``)."""

    written: tuple[str, ...]
    keyless: tuple[str, ...]


async def install(
    etcd: Etcd, ref: EnvironmentRef, certificate: InstallableCertificate, hosts: Collection[str]
) -> InstalledCertificates:
    """Store the certificate for every host, with the private key encrypted for attached nodes and all operators.

    A host with the same certificate and recipients stays unchanged; any other record is replaced, even if unreadable.

    Raises:
        CliError: ``identity_unusable``; ``busy``: the records kept changing.
    """
    me = await identity.own_identity(etcd)
    readers = await sealing_recipients(etcd, ref, me, await recipients.attached(etcd, ref))
    # Encrypted per host, so that no two records have the same ciphertext.
    records_by_host = {
        host: _record(
            ref,
            host,
            certificate,
            await asyncio.to_thread(encrypt, certificate.key_pem, readers.recipients),
            author(etcd),
        )
        for host in sorted(hosts)
    }
    for record in records_by_host.values():
        record.recipients[:] = sorted(readers.recipients)
    written: list[str] = []
    left = iter(records_by_host)
    while batch := list(islice(left, _BATCH)):
        written += await _store(etcd, ref, [records_by_host[host] for host in batch], certificate, me)
    return InstalledCertificates(tuple(written), readers.keyless)


def _record(
    ref: EnvironmentRef, host: str, certificate: InstallableCertificate, key_age: str, obtained_by: str
) -> Certificate:
    not_before, not_after = Timestamp(), Timestamp()
    not_before.FromDatetime(certificate.not_before)
    not_after.FromDatetime(certificate.not_after)
    return Certificate(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        host=host,
        source=Certificate.INSTALLED,
        chain_pem=certificate.chain_pem,
        key_age=key_age,
        serial=certificate.serial,
        issuer=certificate.issuer,
        not_before=not_before,
        not_after=not_after,
        obtained_at=transaction.now(),
        obtained_by=obtained_by,
    )


async def _store(
    etcd: Etcd,
    ref: EnvironmentRef,
    records: Sequence[Certificate],
    certificate: InstallableCertificate,
    me: OperatorIdentity,
) -> list[str]:
    """Write the new and changed records, all or none; return their hosts."""
    written: set[str] = set()
    try:
        async for attempt in transaction.retrying():
            with attempt:
                return await _store_once(etcd, ref, records, certificate, me, written)
    except transaction.WriteConflict as error:
        raise CliError("busy", f"the certificates of {ref} kept being changed by somebody else; try again") from error
    raise AssertionError("unreachable")


async def _store_once(
    etcd: Etcd,
    ref: EnvironmentRef,
    records: Sequence[Certificate],
    certificate: InstallableCertificate,
    me: OperatorIdentity,
    written: set[str],
) -> list[str]:
    keys = [etcd.keys.certificate(ref, record.host) for record in records]
    stored = await concurrently(etcd.get(key) for key in keys)
    changed = [
        (record, key, item)
        for record, key, item in zip(records, keys, stored, strict=True)
        if not _is_stored(record, key, item, certificate, me)
    ]
    if not changed:
        return sorted(written)
    hosts = [record.host for record, _, _ in changed]
    # An unanswered attempt may have succeeded; then its records are stored and count as written here.
    written.update(hosts)
    message = f"{author(etcd)} installed the certificate of {few(hosts)}, issued by {certificate.issuer}"
    event = Event(severity=Event.INFO, code="certificate_installed", message=message)
    result = await etcd.txn(
        [Compare.unmodified(key, item.mod_revision) if item else Compare.absent(key) for _, key, item in changed],
        [*(Put(key, encode(record)) for record, key, _ in changed), await transaction.event_put(etcd, ref, event)],
    )
    if not result.succeeded:
        raise transaction.WriteConflict
    return sorted(written)


def _is_stored(
    record: Certificate, key: str, item: KeyValue | None, certificate: InstallableCertificate, me: OperatorIdentity
) -> bool:
    """Return True if the stored record has the same certificate, recipients and private key."""
    if item is None:
        return False
    try:
        before = decode(Certificate, key, item.value)
        same = before.source == record.source and before.chain_pem == record.chain_pem
        if not same or before.HasField("issuance") or not set(record.recipients) <= set(before.recipients):
            return False
        return me.identity.decrypt(before.key_age) == certificate.key_pem
    except (MalformedRecord, EncryptionError):
        return False


async def remove(etcd: Etcd, ref: EnvironmentRef, host: str) -> None:
    """Delete the certificate of ``host``, even if the record is unreadable.

    Raises:
        CliError: ``certificate_unknown``, ``busy``.
    """
    key = etcd.keys.certificate(ref, host)
    message = f"{author(etcd)} removed the certificate of {host}"
    event = Event(severity=Event.INFO, code="certificate_removed", message=message)
    await transaction.delete(
        etcd, key, await transaction.event_put(etcd, ref, event), CertificateKeyItem(host).unknown(ref)
    )
