"""Certificates in the store, as an operator puts them there, lists them, and takes them away."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.age import SealError, seal
from devopsellence.api.v1.stored_pb2 import Certificate, Event
from devopsellence.cli.ingress.pem import InstallableCertificate
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import identity, recipients
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.items import CertificateKeyItem
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import concurrently
from devopsellence.cli.util.text import few
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Etcd, KeyValue, Put
from devopsellence.store.keys import EnvironmentRef

# One operation of a transaction is the event.
_BATCH: Final = MAX_OPERATIONS - 1


@dataclass(frozen=True)
class InstalledCertificates:
    """``written``: hosts whose certificate is another now. ``keyless``: attached nodes that cannot be sealed for."""

    written: tuple[str, ...]
    keyless: tuple[str, ...]


async def install(
    etcd: Etcd, ref: EnvironmentRef, found: InstallableCertificate, hosts: Collection[str]
) -> InstalledCertificates:
    """Store the certificate for each of ``hosts``, its key sealed for the attached nodes and all operators.

    A host that has it already, sealed for everybody, is left as it is. Whatever else stood there is replaced, also what
    cannot be read.

    Raises:
        CliError: ``identity_unusable``; ``busy``: others kept writing.
    """
    me = await identity.own_identity(etcd)
    everybody = await recipients.of_nodes(etcd, await recipients.attached(etcd, ref))
    # Sealed once for each host, so that no two records hold the same file.
    wanted = {
        host: _record(ref, host, found, await asyncio.to_thread(seal, found.key_pem, everybody.recipients))
        for host in sorted(hosts)
    }
    for record in wanted.values():
        record.recipients[:] = sorted(everybody.recipients)
    written: list[str] = []
    left = iter(wanted)
    while batch := list(islice(left, _BATCH)):
        written += await _store(etcd, ref, [wanted[host] for host in batch], found, me)
    return InstalledCertificates(tuple(written), everybody.keyless)


def _record(ref: EnvironmentRef, host: str, found: InstallableCertificate, key_age: str) -> Certificate:
    not_before, not_after = Timestamp(), Timestamp()
    not_before.FromDatetime(found.not_before)
    not_after.FromDatetime(found.not_after)
    return Certificate(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        host=host,
        source=Certificate.INSTALLED,
        chain_pem=found.chain_pem,
        key_age=key_age,
        serial=found.serial,
        issuer=found.issuer,
        not_before=not_before,
        not_after=not_after,
        obtained_at=transaction.now(),
        obtained_by=transaction.current_user(),
    )


async def _store(
    etcd: Etcd, ref: EnvironmentRef, records: Sequence[Certificate], found: InstallableCertificate, me: OperatorIdentity
) -> list[str]:
    """Write those that are not there yet, all of them or none; returns their hosts."""
    ours: set[str] = set()
    try:
        async for attempt in transaction.retrying():
            with attempt:
                return await _store_once(etcd, ref, records, found, me, ours)
    except transaction.WriteConflict as error:
        raise CliError("busy", f"the certificates of {ref} kept being changed by others; try again") from error
    raise AssertionError("unreachable")


async def _store_once(
    etcd: Etcd,
    ref: EnvironmentRef,
    records: Sequence[Certificate],
    found: InstallableCertificate,
    me: OperatorIdentity,
    ours: set[str],
) -> list[str]:
    keys = [etcd.keys.certificate(ref, record.host) for record in records]
    there = await concurrently(etcd.get(key) for key in keys)
    todo = [
        (record, key, item)
        for record, key, item in zip(records, keys, there, strict=True)
        if not _is_there(record, key, item, found, me)
    ]
    if not todo:
        return sorted(ours)
    hosts = [record.host for record, _, _ in todo]
    # An attempt that got no answer may have happened: what it wrote is then there, and was written by us.
    ours.update(hosts)
    message = f"{transaction.current_user()} installed the certificate of {few(hosts)}, issued by {found.issuer}"
    event = Event(severity=Event.INFO, code="certificate_installed", message=message)
    result = await etcd.txn(
        [Compare.unmodified(key, item.mod_revision) if item else Compare.absent(key) for _, key, item in todo],
        [*(Put(key, encode(record)) for record, key, _ in todo), await transaction.event_put(etcd, ref, event)],
    )
    if not result.succeeded:
        raise transaction.WriteConflict
    return sorted(ours)


def _is_there(
    wanted: Certificate, key: str, item: KeyValue | None, found: InstallableCertificate, me: OperatorIdentity
) -> bool:
    """Whether the record says the same already, for all the same readers, and holds the same key."""
    if item is None:
        return False
    try:
        before = decode(Certificate, key, item.value)
        same = before.source == wanted.source and before.chain_pem == wanted.chain_pem
        if not same or before.HasField("issuance") or not set(wanted.recipients) <= set(before.recipients):
            return False
        return me.identity.open(before.key_age) == found.key_pem
    except (MalformedRecord, SealError):
        return False


async def remove(etcd: Etcd, ref: EnvironmentRef, host: str) -> None:
    """Delete the certificate of ``host``, also one whose record cannot be read.

    Raises:
        CliError: ``certificate_unknown``, ``busy``.
    """
    key = etcd.keys.certificate(ref, host)
    message = f"{transaction.current_user()} removed the certificate of {host}"
    event = Event(severity=Event.INFO, code="certificate_removed", message=message)
    await transaction.delete(
        etcd, key, await transaction.event_put(etcd, ref, event), CertificateKeyItem(host).unknown(ref)
    )
