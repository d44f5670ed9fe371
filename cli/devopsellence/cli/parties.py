"""Whose certificates there are, and what each of them says: the same for the local cluster and for a real one.

A common name is an etcd user (``store.access``) and the name that agents and operators know one another by (``peers``).
"""

from __future__ import annotations

from typing import Final

from devopsellence.cli.pki import MAX_COMMON_NAME, CertificateError, Request
from devopsellence.peers import server_name
from devopsellence.store.access import USER_CONTROLLER, USER_OPERATOR, user_of_node, user_of_operator
from devopsellence.store.settings import ETCD_SERVER_NAME

#: No user of etcd has this name: a member's certificate opens nothing in etcd. Peers must carry it.
MEMBER_COMMON_NAME: Final = "etcd"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def member(*addresses: str) -> Request:
    """A member of etcd: a server for everybody, a client of the other members. ``addresses`` are where it answers."""
    names = [ETCD_SERVER_NAME, *_LOOPBACK, *(each for each in addresses if each not in _LOOPBACK)]
    return Request(MEMBER_COMMON_NAME, tuple(names))


def controller() -> Request:
    """The controllers, which share one user."""
    return Request(USER_CONTROLLER)


def root() -> Request:
    """The operator who may do everything, also manage etcd's users."""
    return Request(USER_OPERATOR)


def operator(name: str) -> Request:
    """Another operator, by name.

    Raises:
        InvalidName: it is no name. CertificateError: it is longer than a certificate can hold.
    """
    return _fitting(Request(user_of_operator(name)), name, "an operator's")


def node(name: str) -> Request:
    """A node's agent: etcd's client, and a server for operators under the one name that belongs to the node.

    Raises:
        InvalidName: it is no name. CertificateError: it is longer than a certificate can hold.
    """
    return _fitting(Request(user_of_node(name), (server_name(name),)), name, "a node's")


def _fitting(request: Request, name: str, whose: str) -> Request:
    room = MAX_COMMON_NAME - (len(request.common_name) - len(name))
    if len(name) > room:
        raise CertificateError(
            f"{name!r} has {len(name)} characters, and {whose} certificate has room for a name of {room}"
        )
    return request
