"""Removal of an operator, and denial of certificates.

Removing denies the name, deletes the access record and the age recipients, all in one transaction. What the operator
could decrypt stays encrypted for its key, so new values are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from devopsellence.access.denied import denial_of, drop_expired
from devopsellence.access.roles import Action
from devopsellence.api.v1.stored_pb2 import (
    DeniedCertificate,
    DenyList,
    IssuedCertificate,
    Operator,
    OperatorAccess,
    TokenCertificate,
)
from devopsellence.cli.errors import access_denied
from devopsellence.cli.operators.access import stored, unknown
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import access, identity
from devopsellence.cli.secrets.access import Exposure
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author, operator_name
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.rights import own_rights
from devopsellence.cli.store.transaction import WriteConflict
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Compare, Delete, Etcd, Put
from devopsellence.store.identities import user_of_operator
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class OperatorRemoval:
    """Planned removal of an operator.

    ``tokens``: certificates of its tokens. ``recipients``: names of its age recipients. ``unclear``: those that name no
    operator and may be its own. ``exposed``: secrets and keys that the recipients could decrypt.
    """

    name: str
    is_denied: bool
    has_access: bool
    tokens: tuple[TokenCertificate, ...]
    recipients: tuple[str, ...]
    unclear: tuple[str, ...]
    exposed: Mapping[EnvironmentRef, Exposure]

    @property
    def nothing(self) -> bool:
        """True if the operator was removed before."""
        return self.is_denied and not (self.has_access or self.recipients)


async def plan(etcd: Etcd, name: str, more_recipients: Collection[str]) -> OperatorRemoval:
    """Return the planned removal of an operator, also of the recipients ``more_recipients``. Writes nothing.

    Raises:
        CliError: ``operator_unknown``, ``recipient_unknown``, ``etcd_permission_denied``.
    """
    own_access = await own_rights(etcd)
    if own_access is not None and not own_access.permit_somewhere(Action.DENY):
        who = operator_name(etcd)
        raise access_denied(f"operator {who} may not remove operators, which needs the role admin in all environments")
    reader, keys = Reader(etcd), etcd.keys
    known = {
        operator.name: operator for operator in (await reader.get_prefix(keys.operators_prefix, Operator)).values()
    }
    item = await etcd.get(keys.operator_access(name))
    # An operator with an unreadable record can be removed as well.
    access_record = await reader.get(keys.operator_access(name), OperatorAccess) or OperatorAccess()
    denied = await stored(etcd, keys.denied, DenyList) or DenyList()
    for recipient in more_recipients:
        if recipient not in known:
            raise CliError("recipient_unknown", f"there is no recipient {recipient}; known: {', '.join(sorted(known))}")
    own = {recipient for recipient, operator in known.items() if operator.operator == name} | set(more_recipients)
    unclear = {
        recipient
        for recipient, operator in known.items()
        if not operator.operator and recipient not in own and identity.is_named_after(recipient, name)
    }
    is_denied = bool(denial_of(denied, user_of_operator(name), ""))
    if not (item or own or is_denied):
        raise unknown(name)
    exposed = await access.exposures_to(etcd, {known[recipient].age_recipient for recipient in own})
    tokens = tuple(access_record.tokens)
    return OperatorRemoval(
        name, is_denied, item is not None, tokens, tuple(sorted(own)), tuple(sorted(unclear)), exposed
    )


async def remove(etcd: Etcd, planned: OperatorRemoval) -> None:
    """Remove the operator. May be repeated.

    Raises:
        CliError: ``busy``.
    """
    entry = DeniedCertificate(name=user_of_operator(planned.name), reason=f"removed by {author(etcd)}")
    await _remove(etcd, planned, [entry])


async def revoke_tokens(etcd: Etcd, planned: OperatorRemoval) -> None:
    """Remove an operator as :func:`remove`, but deny the certificates of its tokens, so that the name stays free.

    Raises:
        CliError: ``busy``.
    """
    reason = f"revoked by {author(etcd)}"
    entries = [
        DeniedCertificate(serial=token.serial, reason=reason, expires_at=token.expires_at)
        for token in planned.tokens
        # Else its certificate was never signed.
        if token.serial
    ]
    await _remove(etcd, planned, entries)


@dataclass(frozen=True)
class SignedWith:
    """Certificates that were signed with another one. ``renewals``: its own, one after the other. ``others``: of other
    identities, signed with it or with a renewal of it."""

    renewals: tuple[IssuedCertificate, ...]
    others: tuple[IssuedCertificate, ...]


def _signed_with(issued: Collection[IssuedCertificate], serial: str) -> SignedWith:
    """Return what was signed with the certificate of a serial number, by the records of gateways."""
    renewals: dict[str, IssuedCertificate] = {}
    reached = [serial]
    while reached:
        callers = set(reached)
        signed = (record for record in issued if record.issued_by_serial in callers)
        found = {record.serial: record for record in signed if _is_renewal(record)}
        reached = [number for number in found if number not in renewals and number != serial]
        renewals |= {number: found[number] for number in reached}
    callers = {serial, *renewals}
    others = [record for record in issued if record.issued_by_serial in callers and not _is_renewal(record)]
    return SignedWith(tuple(renewals.values()), tuple(others))


def _is_renewal(record: IssuedCertificate) -> bool:
    """Return True if a certificate was signed for its caller itself."""
    return record.identity == record.issued_by


async def deny_serial(etcd: Etcd, serial: str, reason: str) -> SignedWith:
    """Deny the certificate with a serial number, as in the deny-list, with all renewals of it, and delete the age
    recipients of tokens among them.

    Raises:
        CliError: ``busy``.
    """
    reader, keys = Reader(etcd), etcd.keys
    records = await reader.get_prefix(keys.all_operator_access_prefix, OperatorAccess)
    tokens = {token.serial: token for record in records.values() for token in record.tokens}
    denied = set[str]()
    # Until nothing is new: its holder may have renewed it once more before the gateways knew.
    while True:
        issued = await reader.get_prefix(keys.issued_certificates_prefix, IssuedCertificate)
        signed = _signed_with(issued.values(), serial)
        ends = {record.serial: record.not_after for record in signed.renewals}
        if not (new := {serial, *ends} - denied):
            return signed
        ends |= {number: token.expires_at for number, token in tokens.items()}
        entries = [
            DeniedCertificate(serial=number, reason=reason, expires_at=ends.get(number)) for number in sorted(new)
        ]
        recipients = [tokens[number].recipient for number in sorted(new & tokens.keys())]
        await _deny(etcd, entries, [Delete(keys.operator(recipient)) for recipient in recipients if recipient])
        denied |= new


async def allow_serial(etcd: Etcd, serial: str) -> None:
    """Accept the certificate with a serial number and its renewals again.

    Raises:
        CliError: ``certificate_not_denied``, ``busy``.
    """
    issued = await Reader(etcd).get_prefix(etcd.keys.issued_certificates_prefix, IssuedCertificate)
    accepted = {serial, *(record.serial for record in _signed_with(issued.values(), serial).renewals)}

    def edit(denied: DenyList) -> None:
        left = [entry for entry in denied.certificates if entry.serial not in accepted]
        if len(left) == len(denied.certificates):
            raise CliError("certificate_not_denied", f"no certificate with the serial number {serial} is denied")
        del denied.certificates[:]
        denied.certificates.extend(left)

    await _edit(etcd, edit, [])


async def _remove(etcd: Etcd, planned: OperatorRemoval, entries: Sequence[DeniedCertificate]) -> None:
    recipients = [Delete(etcd.keys.operator(recipient)) for recipient in planned.recipients]
    await _deny(etcd, entries, [Delete(etcd.keys.operator_access(planned.name)), *recipients])


async def _deny(etcd: Etcd, entries: Sequence[DeniedCertificate], deletes: list[Delete]) -> None:
    for entry in entries:
        entry.denied_at.CopyFrom(transaction.now())

    def edit(denied: DenyList) -> None:
        known = {(entry.name, entry.serial) for entry in denied.certificates}
        denied.certificates.extend(entry for entry in entries if (entry.name, entry.serial) not in known)

    await _edit(etcd, edit, deletes)


async def _edit(etcd: Etcd, edit: Callable[[DenyList], None], deletes: list[Delete]) -> None:
    try:
        async for attempt in transaction.retrying():
            with attempt:
                await _edit_once(etcd, edit, deletes)
    except WriteConflict as error:
        raise CliError("busy", "the deny-list kept being changed by somebody else; try again") from error


async def _edit_once(etcd: Etcd, edit: Callable[[DenyList], None], deletes: list[Delete]) -> None:
    key = etcd.keys.denied
    item = await etcd.get(key)
    denied = decode(DenyList, key, item.value) if item is not None else DenyList()
    drop_expired(denied, datetime.now(UTC))
    edit(denied)
    unchanged = Compare.unmodified(key, item.mod_revision) if item is not None else Compare.absent(key)
    if not (await etcd.txn([unchanged], [Put(key, encode(denied)), *deletes])).succeeded:
        raise WriteConflict
