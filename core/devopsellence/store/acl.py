"""Access control in etcd: users, roles, grants. A certificate's common name is the user name; there are no passwords.

A node can read only its own assignments and write only its own reports, so a compromised machine cannot affect another
node. The role belongs to the node's name, the user to the machine (``uid``): when another machine takes the name, the
user of the previous machine is deleted.

etcd 3.5.1 and 3.4.23 let a user with a grant on a prefix read beyond the prefix through some requests (fixed in 3.5.33
and 3.6.14), so the safety of secrets must not depend on grants alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from devopsellence.agent_identity import OPERATOR_PREFIX
from devopsellence.store.error_mapping import AlreadyExists, DoesNotExist
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import check_name

#: Unrestricted, including user management; etcd requires a user of exactly this name.
USER_OPERATOR: Final = "root"
USER_CONTROLLER: Final = "controller"
_ROLE_ROOT: Final = "root"
#: Role of operators other than root: read and write all keys under the prefix, no user management.
ROLE_OPERATOR: Final = "operator"


def user_of_node(uid: str) -> str:
    """Return the etcd user, also the certificate's common name, of the agent on the machine ``uid``."""
    return f"node:{check_name('node uid', uid)}"


def role_of_node(node: str) -> str:
    """Return the role with the grants of the node, whatever machine has the name."""
    return f"node:{check_name('node', node)}"


def user_of_operator(name: str) -> str:
    """Return the etcd user, also the certificate's common name, of an operator other than root."""
    return f"{OPERATOR_PREFIX}{check_name('operator', name)}"


async def enable(etcd: Etcd) -> None:
    """Create the users of operator and controller, then turn authentication on. Idempotent.

    Afterwards etcd accepts only certificates that name a user. The caller needs the certificate of root, or is locked
    out.
    """
    await _user_with_role(etcd, USER_OPERATOR, _ROLE_ROOT)
    await _user_with_role(etcd, USER_CONTROLLER, USER_CONTROLLER)
    await _role(etcd, ROLE_OPERATOR)
    for role in (USER_CONTROLLER, ROLE_OPERATOR):
        await etcd.role_grant(role, etcd.keys.prefix, read=True, write=True)
    await etcd.auth_enable()


async def grant_node(etcd: Etcd, node: str, uid: str) -> None:
    """Create the user of machine ``uid`` with the grants of an agent on ``node``. Idempotent.

    Raises:
        InvalidName: ``node`` or ``uid`` is not a name.
    """
    role, keys = role_of_node(node), etcd.keys
    await _user_with_role(etcd, user_of_node(uid), role)
    await etcd.role_grant(role, keys.node(node), read=True, write=False)
    await etcd.role_grant(role, keys.assignments_prefix(node), read=True, write=False)
    await etcd.role_grant(role, keys.ingress_prefix(node), read=True, write=False)
    await etcd.role_grant(role, keys.heartbeat(node), read=True, write=True)
    await etcd.role_grant(role, keys.statuses_prefix(node), read=True, write=True)
    await etcd.role_grant(role, keys.all_events_prefix, read=False, write=True)


async def grant_operator(etcd: Etcd, name: str) -> None:
    """Create the user of an operator, with the role of all operators. Idempotent.

    Raises:
        InvalidName: ``name`` is not a name.
    """
    await _role(etcd, ROLE_OPERATOR)
    await etcd.role_grant(ROLE_OPERATOR, etcd.keys.prefix, read=True, write=True)
    with suppress(AlreadyExists):
        await etcd.user_add(user_of_operator(name))
    await etcd.user_grant_role(user_of_operator(name), ROLE_OPERATOR)


async def revoke_node(etcd: Etcd, node: str) -> None:
    """Delete the role of ``node``: no machine that has or had the name can access etcd any more. Idempotent.

    Users remain, without any right; see :func:`revoke_machine`. An open watch continues until the stream ends, because
    etcd checks permissions only when a watch is created.
    """
    with suppress(DoesNotExist):
        await etcd.role_delete(role_of_node(node))
    # Earlier versions gave the user the name of the role.
    await revoke_machine(etcd, node)


async def revoke_machine(etcd: Etcd, uid: str) -> None:
    """Delete the user of one machine: etcd no longer accepts the machine's certificate. Idempotent."""
    with suppress(DoesNotExist):
        await etcd.user_delete(user_of_node(uid))


async def _user_with_role(etcd: Etcd, user: str, role: str) -> None:
    await _role(etcd, role)
    with suppress(AlreadyExists):
        await etcd.user_add(user)
    await etcd.user_grant_role(user, role)


async def _role(etcd: Etcd, role: str) -> None:
    with suppress(AlreadyExists):
        await etcd.role_add(role)
