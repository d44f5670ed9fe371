"""Decisions on callers with certificates, from the records of operators and the deny-list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from devopsellence.access.certificate import Certificate
from devopsellence.access.denied import denial_of
from devopsellence.access.rights import InvalidAccess, Rights, rights_of
from devopsellence.access.roles import PERMITTED, Action
from devopsellence.agent_identity import OPERATOR_PREFIX, OPERATOR_ROOT
from devopsellence.api.v1.stored_pb2 import DenyList, OperatorAccess
from devopsellence.names import NAME


class AccessDenied(Exception):
    """A caller may not do what it asked for; the message is a sentence without a period."""


@dataclass(frozen=True)
class AccessPolicy:
    """Records of operators by name, and the deny-list. A record that is unreadable is left out."""

    operators: Mapping[str, OperatorAccess] = field(default_factory=dict)
    denied: DenyList = field(default_factory=DenyList)

    def check_denied(self, caller: Certificate) -> None:
        """Check that a certificate is not on the deny-list.

        Raises:
            AccessDenied: it is.
        """
        if reason := denial_of(self.denied, caller.common_name, caller.serial):
            raise AccessDenied(reason)

    def check(self, caller: Certificate, action: Action, environment: str = "") -> None:
        """Check that an operator may do something in an environment; "": in any one.

        Raises:
            AccessDenied: the operator may not, or the certificate is denied or no operator's.
            InvalidPattern: ``environment`` is no path.
        """
        self.check_denied(caller)
        if caller.common_name == OPERATOR_ROOT:
            return
        rights = self.rights(caller)
        if environment and not rights.permit(action, environment):
            raise AccessDenied(_lacking(caller, action, f" in the environment {environment}"))
        if not environment and not rights.permit_somewhere(action):
            raise AccessDenied(_lacking(caller, action, ""))

    def rights(self, caller: Certificate) -> Rights:
        """Return the rights of an operator other than root.

        Raises:
            AccessDenied: it has none, or its record is malformed.
        """
        name = caller.common_name.removeprefix(OPERATOR_PREFIX)
        if name == caller.common_name or not NAME.match(name):
            raise AccessDenied(f"a certificate of {caller.common_name or 'nobody'} gives no access")
        access = self.operators.get(name)
        if access is None:
            raise AccessDenied(f"operator {name!r} has been granted no access")
        try:
            return rights_of(access)
        except InvalidAccess as error:
            raise AccessDenied(str(error)) from error


def roles_with(action: Action) -> str:
    """Return the roles that permit an action, for a sentence: ``deployer`` or ``deployer or admin``."""
    return " or ".join(role for role, permitted in PERMITTED.items() if action in permitted)


def _lacking(caller: Certificate, action: Action, where: str) -> str:
    name = caller.common_name.removeprefix(OPERATOR_PREFIX)
    if all(action in permitted for permitted in PERMITTED.values()):
        return f"operator {name} has no role{where}"
    return f"operator {name} lacks the role {roles_with(action)}{where}"
