"""Rights of the operator at the gateways, checked before a command begins.

The gateways refuse writes, but leave out of their answers what the operator may not read: an environment could seem to
be new, a node to be unused, and a command would end halfway. Without an operator's certificate nothing is checked.
"""

from __future__ import annotations

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.rights import InvalidAccess, Rights, rights_of
from devopsellence.access.roles import Action
from devopsellence.api.v1.stored_pb2 import OperatorAccess
from devopsellence.cli.errors import access_denied
from devopsellence.cli.store.author import operator_name
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_operator
from devopsellence.store.keys import EnvironmentRef


async def check_environment(etcd: Etcd, ref: EnvironmentRef, action: Action) -> None:
    """Check that the operator may do something in an environment.

    Raises:
        CliError: ``etcd_permission_denied``. MalformedRecord: the operator's access is unreadable.
    """
    access = await _own_access(etcd)
    if access is None:
        return
    try:
        caller = Certificate(user_of_operator(access.name))
        AccessPolicy({access.name: access}).check(caller, action, str(ref))
    except AccessDenied as error:
        raise access_denied(str(error)) from error


async def check_whole_node(etcd: Etcd, name: str) -> None:
    """Check that the operator may change nodes, and so sees everything that is on node ``name``.

    Raises:
        CliError: ``etcd_permission_denied``. MalformedRecord: the operator's access is unreadable.
    """
    rights = await own_rights(etcd)
    if rights is not None and not rights.permit_somewhere(Action.CHANGE_NODES):
        operator = operator_name(etcd)
        needed = "which needs the role admin in all environments"
        raise access_denied(f"operator {operator} may not change node {name}, {needed}")


async def own_rights(etcd: Etcd) -> Rights | None:
    """Return the operator's rights; None for root, and for an etcd without gateways: there are no limits then.

    Raises:
        CliError: ``etcd_permission_denied``: the record gives no rights. MalformedRecord: it is unreadable.
    """
    access = await _own_access(etcd)
    try:
        return rights_of(access) if access is not None else None
    except InvalidAccess as error:
        raise access_denied(str(error)) from error


async def _own_access(etcd: Etcd) -> OperatorAccess | None:
    """Return the operator's access; None for root, and for an etcd without gateways, which has no such record."""
    operator = operator_name(etcd)
    if not operator:
        return None
    key = etcd.keys.operator_access(operator)
    stored = await etcd.get(key)
    return decode(OperatorAccess, key, stored.value) if stored is not None else None
