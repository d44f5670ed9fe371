"""Access records of operators: add, grant, revoke, list. The gateways refuse what exceeds the caller's own roles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from devopsellence.access.denied import denial_of
from devopsellence.access.patterns import InvalidPattern, covers, fixed_parts
from devopsellence.access.rights import InvalidAccess, Rights, record_of, rights_of
from devopsellence.access.roles import Action, Role
from devopsellence.api.v1.stored_pb2 import DenyList, OperatorAccess
from devopsellence.certificates import approval
from devopsellence.cli.errors import access_denied
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import operator_name
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.rights import own_rights
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_operator

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class KnownOperators:
    """Operators with access, by name, and the deny-list. ``only_self``: the caller may not see others."""

    operators: dict[str, OperatorAccess]
    denied: DenyList
    only_self: bool
    problems: tuple[UnreadableKey, ...]


def parse_grants(roles: Iterable[str], patterns: Iterable[str]) -> Rights:
    """Return the rights of some roles in the environments of some patterns.

    Raises:
        CliError: ``invalid_environments`` (exit code 2): a pattern is malformed.
    """
    for pattern in (patterns := tuple(patterns)):
        try:
            fixed_parts(pattern)
        except InvalidPattern as error:
            raise CliError("invalid_environments", str(error), exit_code=2) from error
    return Rights(frozenset((Role(role), pattern) for role in roles for pattern in patterns))


async def check_addable(etcd: Etcd, name: str, rights: Rights | None) -> None:
    """Check that an operator may be added, before a certificate is issued; with ``rights`` or those it has (None).

    Raises:
        CliError: ``operator_exists``, ``operator_removed``.
    """
    before = await stored(etcd, etcd.keys.operator_access(name), OperatorAccess)
    denied = await stored(etcd, etcd.keys.denied, DenyList) or DenyList()
    if denial_of(denied, user_of_operator(name), ""):
        message = f"an operator {name} was removed, and the certificate of that name stays denied; choose another name"
        raise CliError("operator_removed", message, exit_code=2)
    if before is not None and rights is not None and _rights(before) != rights:
        action = NextAction("grant more", f"devopsellence operator grant {name} --role <role> --environment <pattern>")
        message = f"operator {name} has access already: {roles_text(before)}"
        raise CliError("operator_exists", message, next_actions=[action])


async def add(etcd: Etcd, name: str, rights: Rights) -> None:
    """Record the access of a new operator, who approves its own recipients from then on; existing rights stay.

    Raises:
        CliError: ``operator_exists``: the name is a token's. ``etcd_permission_denied``, ``busy``.
    """
    admission = await asyncio.to_thread(approval.sign, etcd.settings, approval.of_operator(name))

    def edit(before: OperatorAccess | None) -> OperatorAccess:
        if before is not None and before.tokens:
            raise CliError("operator_exists", f"{name} is the name of a token; choose another for an operator")
        record = record_of(name, rights) if before is None else OperatorAccess()
        if before is not None:
            record.CopyFrom(before)
        else:
            record.created_at.CopyFrom(transaction.now())
        if admission is not None and not record.HasField("admission"):
            record.admission.CopyFrom(admission)
        return record

    await transaction.change(etcd, etcd.keys.operator_access(name), OperatorAccess, edit)


async def grant(etcd: Etcd, name: str, added: Rights) -> OperatorAccess:
    """Add rights to those that an operator has.

    Raises:
        CliError: ``operator_unknown``.
    """
    return await _change(etcd, name, lambda held: Rights(held.grants | added.grants))


async def revoke(etcd: Etcd, name: str, role: Role, patterns: Iterable[str]) -> OperatorAccess:
    """Take a role from an operator in the environments of ``patterns``; none: everywhere.

    Raises:
        CliError: ``operator_unknown``; ``role_not_granted``: it lacks the role there, or has it in more environments.
    """
    wanted: tuple[str | None, ...] = tuple(patterns) or (None,)

    def edit(held: Rights) -> Rights:
        left = held
        for pattern in wanted:
            smaller = left.without(role, pattern)
            if smaller == left:
                raise _not_granted(name, held, role, pattern)
            left = smaller
        return left

    return await _change(etcd, name, edit)


async def _change(etcd: Etcd, name: str, edit_rights: Callable[[Rights], Rights]) -> OperatorAccess:
    own = await own_rights(etcd)
    if own is not None and not own.permit_somewhere(Action.GRANT):
        raise access_denied(f"operator {operator_name(etcd)} may not grant or revoke, which needs the role admin")

    def edit(before: OperatorAccess | None) -> OperatorAccess:
        if before is None:
            raise unknown(name)
        after = OperatorAccess()
        after.CopyFrom(before)
        # Of earlier versions: part of the rights.
        for field in ("environments", "nodes", "roles"):
            after.ClearField(field)
        after.MergeFrom(record_of(name, edit_rights(_rights(before))))
        return after

    return await transaction.change(etcd, etcd.keys.operator_access(name), OperatorAccess, edit)


async def known_operators(etcd: Etcd) -> KnownOperators:
    """Return all operators with access that the caller may see, sorted."""
    rights, reader = await own_rights(etcd), Reader(etcd)
    records = await reader.get_prefix(etcd.keys.all_operator_access_prefix, OperatorAccess)
    denied = await reader.get(etcd.keys.denied, DenyList)
    operators = {etcd.keys.parse_operator_access(key): record for key, record in records.items()}
    return KnownOperators(
        operators=dict(sorted(operators.items())),
        denied=denied or DenyList(),
        only_self=rights is not None and not rights.permit_somewhere(Action.READ_ACCESS),
        problems=tuple(reader.problems),
    )


async def stored(etcd: Etcd, key: str, kind: type[M]) -> M | None:
    """Return the record at ``key``; None for none. MalformedRecord if it is unreadable."""
    item = await etcd.get(key)
    return decode(kind, key, item.value) if item is not None else None


def unknown(name: str) -> CliError:
    action = NextAction("see the operators", "devopsellence operator list")
    return CliError("operator_unknown", f"there is no operator {name}", next_actions=[action])


def roles_text(access: OperatorAccess) -> str:
    """Return the roles of a record for people: ``deployer in *; viewer in acme/*``; its problem if it gives none."""
    try:
        grants = record_of("", rights_of(access)).roles
    except InvalidAccess as error:
        return f"none: {error}"
    names = {role.name: role.value for role in Role}
    text = [f"{names[grant.Role.Name(grant.role)]} in {', '.join(grant.environments)}" for grant in grants]
    return "; ".join(text) or "none"


def roles_document(access: OperatorAccess) -> list[dict[str, Any]]:
    """Return the roles of a record as JSON, also those of an earlier version's record."""
    try:
        grants = rights_of(access).grants
    except InvalidAccess:
        return []
    found = {role: sorted(pattern for held, pattern in grants if held is role) for role in Role}
    return [{"role": role.value, "environments": patterns} for role, patterns in found.items() if patterns]


def _rights(access: OperatorAccess) -> Rights:
    try:
        return rights_of(access)
    except InvalidAccess as error:
        raise CliError("record_unreadable", f"access of operator {access.name}: {error}") from error


def _not_granted(name: str, held: Rights, role: Role, pattern: str | None) -> CliError:
    has = roles_text(record_of(name, held))
    where = f" in {pattern}" if pattern else ""
    wider = sorted(at for other, at in held.grants if pattern and other is role and covers(at, pattern))
    actions = [
        NextAction(
            "revoke it there, then grant what stays", f"devopsellence operator revoke {name} --role {role} {flag}"
        )
        for flag in (f"--environment '{at}'" for at in wider)
    ]
    message = f"operator {name} was not granted {role}{where}, but has: {has}"
    return CliError("role_not_granted", message, next_actions=actions)
