"""Approvals of age recipients: signed with the certificate of an operator, verified against the cluster's authority.

A record in etcd names a recipient; the signature says who vouches for it. So whoever can write records, but has no
admin's key, cannot make operators encrypt secrets for a recipient of its own. Whether the approver may approve is
decided elsewhere, by its role.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence import input_file
from devopsellence.access.certificate import Certificate
from devopsellence.access.denied import serial_text
from devopsellence.agent_identity import OPERATOR_ROOT
from devopsellence.api.v1.stored_pb2 import Node, Operator, RecipientApproval
from devopsellence.certificates.facts import basic_constraints, common_name, is_signed_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devopsellence.store.settings import Settings

# The approver's certificate, and more intermediate ones than anybody needs.
_MOST_CERTIFICATES: Final = 4
_MOST_CHARACTERS: Final = 32 << 10
_SIGNED: Final = ec.ECDSA(hashes.SHA256())


class InvalidApproval(ValueError):
    """An approval that proves nothing; the message says why, as a clause."""


@dataclass(frozen=True)
class Statement:
    """Statement to be signed: who has the recipient ``key``. An empty key: any that the holder publishes itself.

    ``holder`` is the name of an operator, or the uid of a node.
    """

    kind: str
    name: str
    holder: str
    key: str = ""

    @property
    def content(self) -> bytes:
        """Return the signed bytes."""
        return json.dumps(["devopsellence recipient 1", self.kind, self.name, self.holder, self.key]).encode()


def of_operator(holder: str, key: str = "") -> Statement:
    """Return the statement about an operator, "" for root."""
    return Statement("operator", holder or OPERATOR_ROOT, holder or OPERATOR_ROOT, key)


def of_node(node: Node, key: str = "") -> Statement:
    """Return the statement about a registered machine."""
    return Statement("node", node.name, node.uid, key)


def sign(settings: Settings, statement: Statement) -> RecipientApproval | None:
    """Return the approval by the operator of these settings; None without a certificate that can sign. Blocks."""
    if settings.cert is None or settings.key is None:
        return None
    try:
        certificates = input_file.read(settings.cert).decode("ascii")
        key = serialization.load_pem_private_key(input_file.read(settings.key), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    approval = RecipientApproval(certificates=certificates, signature=key.sign(statement.content, _SIGNED))
    approval.approved_at.FromSeconds(int(time.time()))
    return approval


def approve_node(settings: Settings, node: Node, key: str = "") -> None:
    """Put the approval of a machine into its record, if these settings can sign. Blocks."""
    if (approval := sign(settings, of_node(node, key))) is not None:
        node.approval.CopyFrom(approval)


def approve_operator(settings: Settings, recipient: Operator) -> None:
    """Put the approval of an operator's recipient into its record, if these settings can sign. Blocks."""
    if (approval := sign(settings, of_operator(recipient.operator, recipient.age_recipient))) is not None:
        recipient.approval.CopyFrom(approval)


def approver(approval: RecipientApproval, statement: Statement, trusted: Sequence[x509.Certificate]) -> Certificate:
    """Return whose certificate has signed a statement, after a check of signature and certificates. Pure.

    The end of the certificate does not matter: a decision outlives it.

    Raises:
        InvalidApproval: the signature is not of this statement, or the certificate not of this cluster.
    """
    if len(approval.certificates) > _MOST_CHARACTERS:
        raise InvalidApproval("its certificates are too large")
    try:
        chain = x509.load_pem_x509_certificates(approval.certificates.encode())
    except ValueError as error:
        raise InvalidApproval("its certificate is malformed") from error
    if len(chain) > _MOST_CERTIFICATES:
        raise InvalidApproval("it has too many certificates")
    try:
        key = chain[0].public_key()
        are_authorities = all(basic_constraints(issuer).ca for issuer in chain[1:])
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise InvalidApproval("its certificates are not understood") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidApproval("its certificate has another kind of key")
    try:
        key.verify(approval.signature, statement.content, _SIGNED)
    except InvalidSignature as error:
        raise InvalidApproval("it is of something else") from error
    if not (are_authorities and all(is_signed_by(issued, issuer) for issued, issuer in pairwise(chain))):
        raise InvalidApproval("its certificates are no chain")
    if not any(is_signed_by(chain[-1], issuer) for issuer in trusted):
        raise InvalidApproval("its certificate is of another cluster")
    return Certificate(common_name(chain[0]), serial_text(chain[0].serial_number))
