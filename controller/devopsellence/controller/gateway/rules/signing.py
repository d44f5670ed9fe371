"""Decisions on certificates: whose may be signed for a caller, and when a join token is good. Pure.

Subject and names come from what the gateway knows of an identity, never from the request.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.roles import Action
from devopsellence.agent_identity import JOIN_PREFIX, NODE_PREFIX, OPERATOR_PREFIX
from devopsellence.api.v1.stored_pb2 import Node, UsedJoinToken
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateRequest
from devopsellence.certificates.life import LEAF_LIFE, LEAST_LIFE
from devopsellence.certificates.pem import CertificateError
from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.refusal import denied, invalid
from devopsellence.names import NAME, InvalidName

#: Prefixes of identities with a machine's uid.
_OF_MACHINES: Final = (NODE_PREFIX, JOIN_PREFIX)


def check_renewable(unit: str) -> None:
    """Check that the owner of a certificate may have further ones signed, by the unit in that certificate.

    Raises:
        Refused: it is for a fixed term, which its owner could otherwise extend, also in another name.
    """
    if unit == subjects.FIXED_TERM:
        raise denied("the certificate is for a fixed term: nothing is signed for it")


def own_subject(caller: Caller) -> CertificateRequest:
    """Return the content of a new certificate of the caller.

    Raises:
        Refused: the caller's certificates are not signed by gateways.
    """
    match caller.role:
        case Role.NODE:
            return subjects.node(caller.name, caller.uid)
        case Role.OPERATOR:
            return subjects.operator(caller.name)
        case Role.ROOT:
            return subjects.root()
        case Role.CONTROLLER:
            raise denied("controllers sign their certificates themselves")
        case Role.JOIN:
            raise denied("a join token is not renewed")


def check_signs_for_others(caller: Caller) -> None:
    """Check that a caller may have certificates of others signed.

    Raises:
        Refused: it may not.
    """
    if caller.role is not Role.ROOT and not caller.rights.permit_somewhere(Action.CHANGE_NODES):
        raise denied("certificates of others are signed for operators with the role admin in all environments")


def router_subject(caller: Caller) -> CertificateRequest:
    """Return the content of a new certificate of the caller's router.

    Raises:
        Refused: the caller is no node.
    """
    if caller.role is not Role.NODE:
        raise denied("certificates of routers are signed for nodes")
    return subjects.router(caller.name, caller.uid)


def subject_for(
    caller: Caller,
    identity: str,
    policy: AccessPolicy,
    node_with_uid: Callable[[str], str],
    *,
    fixed_term: bool = False,
) -> CertificateRequest:
    """Return the content of a certificate for ``identity``: a node, a join token, or an operator other than root.

    ``fixed_term``: its life was chosen, so it is not renewed; for operators alone.

    An operator's certificate gives its owner that operator's rights, so the caller must have all of them. An operator
    without rights gets no certificate: it would be worth something only later.

    Raises:
        Refused: the caller may not have it signed, or there is no such node or operator.
    """
    check_signs_for_others(caller)
    try:
        # A denied name gets no certificate that would be refused anyway.
        policy.check_denied(Certificate(identity))
        if identity.startswith(_OF_MACHINES):
            uid = uid_in(identity)
            policy.check_denied(Certificate(f"{NODE_PREFIX}{uid}"))
            if not (uid and (node := node_with_uid(uid))):
                raise denied("no node is registered with the uid of the identity")
            if fixed_term:
                raise invalid("certificates of nodes, and join tokens, have no life of the caller's choice")
            return subjects.join_token(node, uid) if identity.startswith(JOIN_PREFIX) else subjects.node(node, uid)
        if (operator := identity.removeprefix(OPERATOR_PREFIX)) != identity:
            rights = policy.rights(Certificate(identity))
            if caller.role is not Role.ROOT:
                for role, pattern in sorted(rights.grants):
                    if not caller.rights.permit_granting(role, pattern):
                        raise denied(f"{identity} has the role {role} in {pattern}, which the caller may not give")
            return subjects.operator(operator, fixed_term=fixed_term)
    except AccessDenied as error:
        raise denied(str(error)) from error
    except (InvalidName, CertificateError) as error:
        raise invalid(str(error)) from error
    raise denied("only certificates of operators and nodes, and join tokens, are signed")


def uid_in(identity: str) -> str:
    """Return the uid in the identity of a node or a join token; "" for others, and if it is malformed."""
    uid = identity.partition(":")[2] if identity.startswith(_OF_MACHINES) else ""
    return uid if NAME.match(uid) else ""


def check_joinable(caller: Caller, node: Node | None) -> None:
    """Check that a join token is good for a node, by the record of the node.

    Raises:
        Refused: the node was removed, or another machine took its place.
    """
    if node is None or node.uid != caller.uid:
        raise denied("the join token is void: the node was removed, or registered anew for another machine")


def check_unused(used: UsedJoinToken | None, key: ec.EllipticCurvePublicKey) -> bytes | None:
    """Return what a join token was used for, if that was for this key; None if it was not used.

    Raises:
        Refused: it was used for another key.
    """
    if used is None:
        return None
    chain = used.chain.encode()
    # A record that is damaged has no certificate.
    if not chain or x509.load_pem_x509_certificate(chain).public_key() != key:
        raise denied("the join token was used before")
    return chain


def granted_life(subject: CertificateRequest, asked: datetime.timedelta | None) -> datetime.timedelta:
    """Return the life of a certificate; ``asked``: that of the request, None for the longest.

    Raises:
        Refused: it is too short or too long.
    """
    if asked is None:
        return subject.life
    if not LEAST_LIFE <= asked <= LEAF_LIFE:
        raise invalid(f"a certificate lasts {LEAST_LIFE.seconds // 60} minutes to {LEAF_LIFE.days} days")
    return asked
