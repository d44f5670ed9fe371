"""Subjects of certificates: etcd members, controllers, operators, nodes; the same in local and real clusters.

The common name is the identity of the party (``store.identities``). For a node, it is the uid of the machine, so two
machines with the same node name have different identities.
"""

from __future__ import annotations

from typing import Final

from devopsellence.agent_identity import server_name
from devopsellence.cli.certificates.pki import MAX_COMMON_NAME, CertificateError, CertificateRequest
from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR, user_of_node, user_of_operator
from devopsellence.store.keys import check_name
from devopsellence.store.settings import ETCD_SERVER_NAME

#: Required common name of etcd's peers. No etcd user has this name, so the certificate gives no access to keys.
MEMBER_COMMON_NAME: Final = "etcd"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def member(*addresses: str) -> CertificateRequest:
    """Return the request for an etcd member: server at ``addresses``, and client of the other members."""
    names = [ETCD_SERVER_NAME, *_LOOPBACK, *(address for address in addresses if address not in _LOOPBACK)]
    return CertificateRequest(MEMBER_COMMON_NAME, tuple(names))


def controller() -> CertificateRequest:
    """Return the request for the controllers, which share a user."""
    return CertificateRequest(USER_CONTROLLER)


def root() -> CertificateRequest:
    """Return the request for the root operator, with full access to etcd including its users."""
    return CertificateRequest(USER_OPERATOR)


def operator(name: str) -> CertificateRequest:
    """Return the request for the operator ``name``.

    Raises:
        InvalidName: ``name`` is not valid. CertificateError: ``name`` is too long for a certificate.
    """
    request = CertificateRequest(user_of_operator(name))
    longest = MAX_COMMON_NAME - (len(request.common_name) - len(name))
    if len(name) > longest:
        raise CertificateError(
            f"the operator name {name!r} has {len(name)} characters; a certificate allows {longest} at most"
        )
    return request


def node(name: str, uid: str) -> CertificateRequest:
    """Return the request for the agent of machine ``uid``: client of etcd, and server for operators.

    The node name is in the certificate for people only.

    Raises:
        InvalidName: ``name`` or ``uid`` is not valid.
    """
    return CertificateRequest(user_of_node(uid), (server_name(uid),), unit=check_name("node", name))
