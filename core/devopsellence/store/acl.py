"""etcd's users, roles and grants. The common names of certificates are the user names; nobody has a password.

A node can read what is meant for it and write what it reports, and nothing else: a machine that is taken over cannot
touch another. Its role belongs to the node's name, its user to the machine: when another machine gets the name, the
user of the one before goes.

etcd 3.5.1 and 3.4.23 let a user with a grant on a prefix read beyond it through some requests (fixed in 3.5.33 and
3.6.14), so no secret's safety may rest on this alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from devopsellence.agent_identity import OPERATOR_PREFIX
from devopsellence.store.error_mapping import AlreadyExists, DoesNotExist
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import check_name

#: May do everything, also manage users: etcd wants a user of this very name.
USER_OPERATOR: Final = "root"
USER_CONTROLLER: Final = "controller"
_ROLE_ROOT: Final = "root"
#: For people who are not root: reads and writes all of this installation's keys, manages no users.
ROLE_OPERATOR: Final = "operator"


def user_of_node(uid: str) -> str:
    """The user and certificate's common name of the agent on the machine that was registered with ``uid``."""
    return f"node:{check_name('node uid', uid)}"


def role_of_node(node: str) -> str:
    """The role with the grants of whichever machine is the node of that name."""
    return f"node:{check_name('node', node)}"


def user_of_operator(name: str) -> str:
    """The user and certificate's common name of an operator who is not root."""
    return f"{OPERATOR_PREFIX}{check_name('operator', name)}"


async def enable(etcd: Etcd) -> None:
    """Make the operator and the controller, then turn authentication on. May be repeated.

    Afterwards only certificates that name a user get in. Whoever calls this must hold root's, or is locked out.
    """
    await _user_with_role(etcd, USER_OPERATOR, _ROLE_ROOT)
    await _user_with_role(etcd, USER_CONTROLLER, USER_CONTROLLER)
    await _role(etcd, ROLE_OPERATOR)
    for role in (USER_CONTROLLER, ROLE_OPERATOR):
        await etcd.role_grant(role, etcd.keys.prefix, read=True, write=True)
    await etcd.auth_enable()


async def grant_node(etcd: Etcd, node: str, uid: str) -> None:
    """Make the user of the machine that is ``node``, with the grants that an agent needs. May be repeated.

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
    """Make the operator's user, with the role that all operators have. May be repeated.

    Raises:
        InvalidName: ``name`` is not a name.
    """
    await _role(etcd, ROLE_OPERATOR)
    await etcd.role_grant(ROLE_OPERATOR, etcd.keys.prefix, read=True, write=True)
    with suppress(AlreadyExists):
        await etcd.user_add(user_of_operator(name))
    await etcd.user_grant_role(user_of_operator(name), ROLE_OPERATOR)


async def revoke_node(etcd: Etcd, node: str) -> None:
    """Delete the role of every machine that is, or was, ``node``: none of them gets anywhere any more. May be repeated.

    Their users, which are left without any right, are :func:`revoke_machine`'s. A watch that one of them holds open
    goes on until its stream ends; etcd asks for rights when a watch is made.
    """
    with suppress(DoesNotExist):
        await etcd.role_delete(role_of_node(node))
    # Earlier versions called the user as the role.
    await revoke_machine(etcd, node)


async def revoke_machine(etcd: Etcd, uid: str) -> None:
    """Delete the user of one machine: its certificate opens nothing from now on. May be repeated."""
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
