"""Tokens: operators for CI jobs, whose certificates are recorded in their access record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.access.certificate import serial_number
from devopsellence.access.patterns import ANY
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Action
from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Operator, OperatorAccess, TokenCertificate
from devopsellence.cli.access_token import Token
from devopsellence.cli.certificates.pki import CertificateAuthority, certificate_end
from devopsellence.cli.cluster import issue
from devopsellence.cli.operators import access, removal
from devopsellence.cli.operators.access import KnownOperators
from devopsellence.cli.operators.removal import OperatorRemoval
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets.identity import operator_name
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd, Put


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


async def create(etcd: Etcd, authority: CertificateAuthority, order: TokenOrder) -> CreatedToken:
    """Create a token: its certificate, an age identity if its roles permit secrets, and their records.

    Raises:
        CliError: ``operator_exists``, ``operator_removed``, ``invalid_name``, ``busy``.
    """
    await check_creatable(etcd, order.name, order.rights)
    issued = issue.sign_operator(authority, order.name, order.life, issue.now())
    identity = AgeIdentity.generate() if order.rights.permit_somewhere(Action.WRITE_SECRETS) else None
    recipient = _recipient(order.name, identity) if identity is not None else None
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
        authority=authority.issued.certificate.decode(),
        certificate=issued.certificate.decode(),
        key=issued.key.decode(),
        identity=identity.text() if identity is not None else "",
        environment=_only_environment(order.rights),
        server_name=etcd.settings.server_name,
        prefix=etcd.settings.prefix,
    )
    return CreatedToken(token, record, certificate.serial, expires_at)


async def check_creatable(etcd: Etcd, name: str, rights: Rights) -> None:
    """Check that a token may be created, before a certificate is issued.

    Raises:
        CliError: ``operator_exists``: a person has the name, or the token has other roles. ``operator_removed``.
    """
    await access.check_addable(etcd, name, rights)
    record = await access.stored(etcd, etcd.keys.operator_access(name), OperatorAccess)
    if record is not None and not record.tokens:
        message = f"{name} is an operator with a certificate of its own; choose another name for the token"
        raise CliError("operator_exists", message)


async def _record(
    etcd: Etcd, order: TokenOrder, certificate: TokenCertificate, recipient: Operator | None
) -> OperatorAccess:
    """Record a token: roles, certificate and age recipient, in one transaction; drop certificates that have expired."""

    def edit(before: OperatorAccess | None) -> OperatorAccess:
        after = record_of(order.name, order.rights)
        after.created_at.CopyFrom(before.created_at if before is not None else certificate.created_at)
        after.tokens.extend(unexpired(before.tokens if before is not None else (), certificate.created_at))
        after.tokens.append(certificate)
        return after

    puts = [Put(etcd.keys.operator(recipient.name), encode(recipient))] if recipient is not None else []
    key = etcd.keys.operator_access(order.name)
    return await transaction.change(etcd, key, OperatorAccess, edit, also=lambda _: puts)


def _recipient(name: str, identity: AgeIdentity) -> Operator:
    key = identity.recipient
    return Operator(
        name=operator_name(f"{name}@token", key), age_recipient=key, created_at=transaction.now(), operator=name
    )


def _only_environment(rights: Rights) -> str:
    """Return the environment of a token that is for a single one; "" for others."""
    patterns = {pattern for _, pattern in rights.grants}
    return patterns.pop() if len(patterns) == 1 and not any(pattern.endswith(ANY) for pattern in patterns) else ""


def unexpired(tokens: Iterable[TokenCertificate], now: Timestamp) -> list[TokenCertificate]:
    """Return the tokens that can still be used."""
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
