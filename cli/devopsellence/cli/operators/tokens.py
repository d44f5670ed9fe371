"""Tokens: operators for CI jobs, whose certificates are recorded in their access record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.access.certificate import serial_number
from devopsellence.access.patterns import ANY
from devopsellence.access.policy import roles_with
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Action
from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Operator, OperatorAccess, TokenCertificate
from devopsellence.certificates.approval import approve_operator
from devopsellence.certificates.facts import certificate_end
from devopsellence.certificates.files import KeyPair
from devopsellence.cli.access_token import Token
from devopsellence.cli.errors import access_denied
from devopsellence.cli.operators import access, removal
from devopsellence.cli.operators.access import KnownOperators
from devopsellence.cli.operators.removal import OperatorRemoval
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets.identity import operator_name
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.store.author import operator_name as author_name
from devopsellence.cli.store.rights import own_rights
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Delete, Etcd, Put


@dataclass(frozen=True)
class TokenOrder:
    """Token to be created."""

    name: str
    rights: Rights
    life: timedelta


@dataclass(frozen=True)
class CreatedToken:
    """Token with the access record that names its certificate."""

    token: Token
    record: OperatorAccess
    serial: str
    expires_at: datetime
    #: Name of its age recipient; "" without.
    recipient: str


async def begin(etcd: Etcd, order: TokenOrder) -> None:
    """Record the roles of a token, before its certificate is signed. May be repeated.

    The record says that it is a token's, by an entry that has no certificate yet.

    Raises:
        CliError: ``operator_exists``, ``operator_removed``, ``etcd_permission_denied``, ``busy``.
    """
    await check_creatable(etcd, order.name, order.rights)
    await _check_recipient(etcd, order)
    unfinished = TokenCertificate(created_at=transaction.now(), created_by=author(etcd))

    def edit(before: OperatorAccess | None) -> OperatorAccess:
        if before is not None:
            _check_tokens_alone(before)
            return before
        record = record_of(order.name, order.rights)
        record.created_at.CopyFrom(unfinished.created_at)
        record.tokens.append(unfinished)
        return record

    await transaction.change(etcd, etcd.keys.operator_access(order.name), OperatorAccess, edit)


async def complete(etcd: Etcd, order: TokenOrder, issued: KeyPair, trusted: bytes) -> CreatedToken:
    """Create a token with a signed certificate: an age identity if its roles permit secrets, and their records.

    ``trusted``: PEM of the cluster's authorities.

    Raises:
        CliError: ``operator_unknown``: it was revoked meanwhile; ``busy``.
    """
    identity = AgeIdentity.generate() if _has_identity(order) else None
    recipient = _recipient(order.name, identity, by=author(etcd)) if identity is not None else None
    if recipient is not None:
        await asyncio.to_thread(approve_operator, etcd.settings, recipient)
    certificate = TokenCertificate(
        serial=serial_number(issued.certificate),
        created_at=transaction.now(),
        created_by=author(etcd),
        recipient=recipient.name if recipient is not None else "",
    )
    expires_at = certificate_end(issued.certificate)
    certificate.expires_at.FromDatetime(expires_at)
    record = await _record(etcd, order, certificate, recipient)
    token = Token(
        endpoints=etcd.settings.endpoints,
        authority=trusted.decode(),
        certificate=issued.certificate.decode(),
        key=issued.key.decode(),
        identity=identity.text() if identity is not None else "",
        environment=_only_environment(order.rights),
        server_name=etcd.settings.server_name,
        prefix=etcd.settings.prefix,
    )
    return CreatedToken(token, record, certificate.serial, expires_at, certificate.recipient)


def _has_identity(order: TokenOrder) -> bool:
    return order.rights.permit_somewhere(Action.WRITE_SECRETS)


async def _check_recipient(etcd: Etcd, order: TokenOrder) -> None:
    """Check that the operator may add the age recipient of another, as gateways do when it is written."""
    own = await own_rights(etcd)
    if own is not None and _has_identity(order) and not own.permit(Action.WRITE_SECRETS, ANY):
        needed = f"which needs the role {roles_with(Action.WRITE_SECRETS)} in all environments besides admin"
        raise access_denied(f"operator {author_name(etcd)} may not create a token that decrypts secrets, {needed}")


async def check_creatable(etcd: Etcd, name: str, rights: Rights) -> None:
    """Check that a token may be created, before a certificate is issued.

    Raises:
        CliError: ``operator_exists``: a person has the name, or the token has other roles. ``operator_removed``.
    """
    await access.check_addable(etcd, name, rights)
    record = await access.stored(etcd, etcd.keys.operator_access(name), OperatorAccess)
    if record is not None:
        _check_tokens_alone(record)


def _check_tokens_alone(record: OperatorAccess) -> None:
    if not record.tokens:
        message = f"{record.name} is an operator with a certificate of its own; choose another name for the token"
        raise CliError("operator_exists", message)


async def _record(
    etcd: Etcd, order: TokenOrder, certificate: TokenCertificate, recipient: Operator | None
) -> OperatorAccess:
    """Record a token: roles, certificate and age recipient, in one transaction; drop those that have expired."""
    former: Sequence[TokenCertificate] = ()

    def edit(before: OperatorAccess | None) -> OperatorAccess:
        nonlocal former
        if before is None:
            raise CliError("operator_unknown", "it was revoked meanwhile")
        _check_tokens_alone(before)
        after = OperatorAccess()
        after.CopyFrom(before)
        former = list(after.tokens)
        del after.tokens[:]
        # Without this one: an earlier attempt may have been written without an answer.
        others = [token for token in unexpired(former, certificate.created_at) if token.serial != certificate.serial]
        after.tokens.extend([*others, certificate])
        return after

    def recipients(after: OperatorAccess) -> list[Put | Delete]:
        left = {token.recipient for token in after.tokens}
        gone = {token.recipient for token in former} - left - {""}
        puts = [Put(etcd.keys.operator(recipient.name), encode(recipient))] if recipient is not None else []
        return [*puts, *(Delete(etcd.keys.operator(name)) for name in sorted(gone))]

    key = etcd.keys.operator_access(order.name)
    return await transaction.change(etcd, key, OperatorAccess, edit, also=recipients)


def _recipient(name: str, identity: AgeIdentity, *, by: str) -> Operator:
    key = identity.recipient
    return Operator(
        name=operator_name(f"{name}@token", key),
        age_recipient=key,
        created_at=transaction.now(),
        operator=name,
        added_by=by,
    )


def _only_environment(rights: Rights) -> str:
    """Return the environment of a token that is for a single one; "" for others."""
    patterns = {pattern for _, pattern in rights.grants}
    return patterns.pop() if len(patterns) == 1 and not any(pattern.endswith(ANY) for pattern in patterns) else ""


def finished(tokens: Iterable[TokenCertificate]) -> list[TokenCertificate]:
    """Return the tokens that have a certificate: a command may have been interrupted before."""
    return [token for token in tokens if token.serial]


def unexpired(tokens: Iterable[TokenCertificate], now: Timestamp) -> list[TokenCertificate]:
    """Return the tokens that can still be used; an unfinished one has no end, and cannot."""
    return [token for token in tokens if token.expires_at.seconds > now.seconds]


async def known_tokens(etcd: Etcd) -> KnownOperators:
    """Return the operators with tokens that the caller may see."""
    known = await access.known_operators(etcd)
    return replace(known, operators={name: record for name, record in known.operators.items() if record.tokens})


async def plan_revocation(etcd: Etcd, name: str) -> OperatorRemoval:
    """Return the planned revocation of all tokens of an operator. Writes nothing.

    Raises:
        CliError: ``operator_unknown``; ``token_unknown``: a person; ``etcd_permission_denied``.
    """
    planned = await removal.plan(etcd, name, ())
    if not planned.tokens:
        action = NextAction("remove the operator", f"devopsellence operator remove {name}")
        raise CliError("token_unknown", f"operator {name} has no token", next_actions=[action])
    return planned
