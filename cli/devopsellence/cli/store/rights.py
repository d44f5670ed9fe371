"""Rights of the operator at the gateways, checked before a command begins.

The gateways refuse writes, but leave out of their answers what the operator may not read: an environment could seem to
be new, a node to be unused, and a command would end halfway. Without an operator's certificate nothing is checked.
"""

from __future__ import annotations

from typing import Final

from devopsellence.api.v1.stored_pb2 import OperatorAccess
from devopsellence.cli.errors import access_denied
from devopsellence.cli.store.author import operator_name
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

#: Last part of a pattern that stands for all names.
_ANY: Final = "*"


async def check_environment(etcd: Etcd, ref: EnvironmentRef) -> None:
    """Check that the operator has access to an environment.

    Raises:
        CliError: ``etcd_permission_denied``. MalformedRecord: the operator's access is unreadable.
    """
    access = await _own_access(etcd)
    if access is not None and not any(matches(pattern, ref) for pattern in access.environments):
        raise access_denied(f"operator {access.name} may not use the environment {ref}")


async def check_whole_node(etcd: Etcd, name: str) -> None:
    """Check that the operator may change nodes, and sees everything that is on node ``name``.

    Raises:
        CliError: ``etcd_permission_denied``. MalformedRecord: the operator's access is unreadable.
    """
    access = await _own_access(etcd)
    if access is None:
        return
    if not access.nodes:
        raise access_denied(f"operator {access.name} may not change node {name}")
    if _ANY not in access.environments:
        environments = ", ".join(access.environments) or "no environment"
        raise access_denied(f"operator {access.name} sees {environments}, and not all that is on node {name}")


def matches(pattern: str, ref: EnvironmentRef) -> bool:
    """Return True if a pattern of an operator's access stands for ``ref``: ``*``, ``acme/*`` or ``acme/shop/web``."""
    parts = pattern.split("/")
    fixed = parts[:-1] if parts[-1] == _ANY else parts
    return str(ref).split("/")[: len(fixed)] == fixed


async def _own_access(etcd: Etcd) -> OperatorAccess | None:
    """Return the operator's access; None for root, and for an etcd without gateways, which has no such record."""
    operator = operator_name(etcd)
    if not operator:
        return None
    key = etcd.keys.operator_access(operator)
    stored = await etcd.get(key)
    return decode(OperatorAccess, key, stored.value) if stored is not None else None
