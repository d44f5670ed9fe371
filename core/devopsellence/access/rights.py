"""Rights of an operator: roles in environments, from its record, also one of an earlier version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from devopsellence.access.patterns import ANY, InvalidPattern, covers, fixed_parts
from devopsellence.access.roles import CLUSTER_WIDE, PERMITTED, Action, Role
from devopsellence.api.v1.stored_pb2 import OperatorAccess, RoleGrant


class InvalidAccess(ValueError):
    """A record of access that gives none, because a part of it is not understood; the message says which."""


@dataclass(frozen=True)
class Rights:
    """Rights of an operator: pairs of a role and a pattern of environments."""

    grants: frozenset[tuple[Role, str]]

    def patterns(self, action: Action) -> tuple[str, ...]:
        """Return the patterns of the environments in which ``action`` is permitted, sorted."""
        found = {pattern for role, pattern in self.grants if action in PERMITTED[role]}
        return tuple(sorted(found & {ANY} if action in CLUSTER_WIDE else found))

    def permit(self, action: Action, environments: str) -> bool:
        """Return True if ``action`` is permitted in all ``environments``, a path or a pattern.

        Raises:
            InvalidPattern: ``environments`` is neither.
        """
        wanted = fixed_parts(environments)
        # The role may be held for parts of a pattern that add up to it; only one that covers it alone counts.
        return any(wanted[: len(fixed)] == fixed for fixed in map(fixed_parts, self.patterns(action)))

    def permit_somewhere(self, action: Action) -> bool:
        """Return True if ``action`` is permitted in any environment."""
        return bool(self.patterns(action))

    def permit_granting(self, role: Role, pattern: str) -> bool:
        """Return True if the operator may give ``role``: in environments where it may grant, and no more than it has.

        Raises:
            InvalidPattern: ``pattern`` is malformed.
        """
        needed = {action for action in PERMITTED[role] if action not in CLUSTER_WIDE or fixed_parts(pattern) == ()}
        return all(self.permit(action, pattern) for action in {*needed, Action.GRANT})

    def without(self, role: Role, pattern: str | None) -> Rights:
        """Return the rights without ``role`` in the environments of ``pattern``; None: in all."""
        return Rights(
            frozenset(
                (held, at)
                for held, at in self.grants
                if held is not role or not (pattern is None or covers(pattern, at))
            )
        )


NO_RIGHTS: Final = Rights(frozenset())
FULL_ROLES: Final = (Role.DEPLOYER, Role.ADMIN, Role.EXEC)
FULL_RIGHTS: Final = Rights(frozenset((role, ANY) for role in FULL_ROLES))


def rights_of(access: OperatorAccess) -> Rights:
    """Return the rights that a record gives.

    Raises:
        InvalidAccess: a pattern is malformed, or a role unknown. The record gives no rights then.
    """
    grants = {(role, pattern) for role in _former_roles(access) for pattern in access.environments}
    for grant in access.roles:
        try:
            role = Role[RoleGrant.Role.Name(grant.role)]
        except (ValueError, KeyError):
            raise InvalidAccess(f"the operator's access record is malformed: role {grant.role} is unknown") from None
        grants |= {(role, pattern) for pattern in grant.environments}
    for _, pattern in grants:
        try:
            fixed_parts(pattern)
        except InvalidPattern as error:
            raise InvalidAccess(f"the operator's access record is malformed: {error}") from error
    return Rights(frozenset(grants))


def _former_roles(access: OperatorAccess) -> tuple[Role, ...]:
    """Return the roles that a record of a version before roles has in its environments."""
    return FULL_ROLES if access.nodes else (Role.DEPLOYER, Role.EXEC)


def record_of(name: str, rights: Rights) -> OperatorAccess:
    """Return the record that gives an operator these rights."""
    return OperatorAccess(name=name, roles=_role_grants(rights.grants))


def _role_grants(grants: Iterable[tuple[Role, str]]) -> list[RoleGrant]:
    held = set(grants)
    by_role = {role: sorted(pattern for other, pattern in held if other is role) for role in Role}
    return [
        RoleGrant(role=RoleGrant.Role.Value(role.name), environments=patterns)
        for role, patterns in by_role.items()
        if patterns
    ]
