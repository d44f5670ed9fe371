"""Whose certificates there are, and what each of them says: the same for the local cluster and for a real one.

A common name is an etcd user (``store.access``) and the name that agents and operators know one another by (``peers``).
A node's is its machine's uid, so that a machine is told apart from another that had the same name before.
"""

from __future__ import annotations

from typing import Final

from devopsellence.agent_identity import server_name
from devopsellence.cli.certificates.pki import MAX_COMMON_NAME, CertificateError, CertificateRequest
from devopsellence.store.acl import USER_CONTROLLER, USER_OPERATOR, user_of_node, user_of_operator
from devopsellence.store.keys import check_name
from devopsellence.store.settings import ETCD_SERVER_NAME

#: No user of etcd has this name: a member's certificate opens nothing in etcd. Peers must carry it.
MEMBER_COMMON_NAME: Final = "etcd"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def member(*addresses: str) -> CertificateRequest:
    """A member of etcd: a server for everybody, a client of the other members. ``addresses`` are where it answers."""
    names = [ETCD_SERVER_NAME, *_LOOPBACK, *(address for address in addresses if address not in _LOOPBACK)]
    return CertificateRequest(MEMBER_COMMON_NAME, tuple(names))


def controller() -> CertificateRequest:
    """The controllers, which share one user."""
    return CertificateRequest(USER_CONTROLLER)


def root() -> CertificateRequest:
    """The operator who may do everything, also manage etcd's users."""
    return CertificateRequest(USER_OPERATOR)


def operator(name: str) -> CertificateRequest:
    """Another operator, by name.

    Raises:
        InvalidName: it is no name. CertificateError: it is longer than a certificate can hold.
    """
    request = CertificateRequest(user_of_operator(name))
    room = MAX_COMMON_NAME - (len(request.common_name) - len(name))
    if len(name) > room:
        raise CertificateError(
            f"{name!r} has {len(name)} characters, and an operator's certificate has room for a name of {room}"
        )
    return request


def node(name: str, uid: str) -> CertificateRequest:
    """The agent of the machine ``uid``: etcd's client, and a server for operators under the one name of that machine.

    The node's name is in it for people alone.

    Raises:
        InvalidName: ``name`` or ``uid`` is no name.
    """
    return CertificateRequest(user_of_node(uid), (server_name(uid),), unit=check_name("node", name))
