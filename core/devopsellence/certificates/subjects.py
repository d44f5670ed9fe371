"""Subjects of certificates: etcd members, controllers, operators, nodes, routers; the same in local and real clusters.

The common name is the identity at gateways, and between agents and operators (``agent_identity``). For
a node, the common name is the uid of the machine, so two machines with the same node name have different identities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from devopsellence.agent_identity import router_name, server_name
from devopsellence.certificates.authority import LONG_LIFE, MAX_COMMON_NAME, CertificateRequest
from devopsellence.certificates.life import JOIN_LIFE
from devopsellence.certificates.pem import CertificateError
from devopsellence.store.identities import (
    USER_CONTROLLER,
    USER_OPERATOR,
    user_of_join_token,
    user_of_node,
    user_of_operator,
    user_of_router,
)
from devopsellence.store.keys import check_name
from devopsellence.store.settings import ETCD_CLIENT_NAME, ETCD_SERVER_NAME

#: Required common name of etcd's peers. The certificate gives no access to keys.
MEMBER_COMMON_NAME: Final = "etcd"
#: Unit of certificates that end when they were meant to: whoever has one cannot renew it.
FIXED_TERM: Final = "fixed term"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def member(*addresses: str) -> CertificateRequest:
    """Return the request for an etcd member: server at ``addresses``, and client of the other members."""
    return CertificateRequest(MEMBER_COMMON_NAME, _server_names(addresses), life=LONG_LIFE)


def controller(*addresses: str) -> CertificateRequest:
    """Return the request for the controllers, which share an identity: clients of etcd, servers at ``addresses``.

    Where a controller can sign, it signs certificates like this one for itself; elsewhere nothing renews it.
    """
    return CertificateRequest(USER_CONTROLLER, _server_names(addresses), (ETCD_CLIENT_NAME,), life=LONG_LIFE)


def root() -> CertificateRequest:
    """Return the request for the root operator, with full access through gateways, and to etcd itself.

    Copies of it on etcd's machines take snapshots, and are not renewed there.
    """
    return CertificateRequest(USER_OPERATOR, client_names=(ETCD_CLIENT_NAME,), life=LONG_LIFE)


def operator(name: str, *, fixed_term: bool = False) -> CertificateRequest:
    """Return the request for the operator ``name``; ``fixed_term``: gateways do not renew the certificate.

    Raises:
        InvalidName: ``name`` is not valid. CertificateError: ``name`` is too long for a certificate.
    """
    request = CertificateRequest(user_of_operator(name), unit=FIXED_TERM if fixed_term else "")
    longest = MAX_COMMON_NAME - (len(request.common_name) - len(name))
    if len(name) > longest:
        raise CertificateError(
            f"the operator name {name!r} has {len(name)} characters; a certificate allows {longest} at most"
        )
    return request


def node(name: str, uid: str) -> CertificateRequest:
    """Return the request for the agent of machine ``uid``: client of gateways, and server for operators.

    The node name is in the certificate for people only.

    Raises:
        InvalidName: ``name`` or ``uid`` is not valid.
    """
    return CertificateRequest(user_of_node(uid), (server_name(uid),), unit=check_name("node", name))


def join_token(name: str, uid: str) -> CertificateRequest:
    """Return the request for a join token of the node ``name``, for the machine ``uid``: a client of gateways.

    Raises:
        InvalidName: ``name`` or ``uid`` is not valid.
    """
    return CertificateRequest(user_of_join_token(uid), unit=check_name("node", name), life=JOIN_LIFE)


def router(name: str, uid: str) -> CertificateRequest:
    """Return the request for the router of machine ``uid``: client and server of other nodes' routers, nothing else.

    It has the node's DNS name as well, because routers of versions without such certificates expect that.

    Raises:
        InvalidName: ``name`` or ``uid`` is not valid.
    """
    return CertificateRequest(user_of_router(uid), (router_name(uid), server_name(uid)), unit=check_name("node", name))


def _server_names(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a server of etcd's API. Addresses are for etcdctl, which cannot be told a name to expect."""
    return tuple(dict.fromkeys((ETCD_SERVER_NAME, *_LOOPBACK, *addresses)))
