"""Recipients that secrets are encrypted for: the one place that decides, for every command.

A recipient counts if it is the operator's own, if an admin has approved it, or if this operator has confirmed it. In a
cluster without certificates all count: nobody could prove an approval, and everybody may read and write everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.roles import Action
from devopsellence.api.v1.stored_pb2 import DenyList, Node, Operator, OperatorAccess, RecipientApproval
from devopsellence.certificates import approval
from devopsellence.certificates.approval import InvalidApproval, Statement
from devopsellence.certificates.pem import load_certificates
from devopsellence.cli import errors
from devopsellence.cli.confirm import AnswerNeeded
from devopsellence.cli.output import Finding, NextAction
from devopsellence.cli.secrets import known, recipients
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.known import KnownRecipients
from devopsellence.cli.secrets.recipients import RecipientRecords, Recipients
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.cli.util.text import few, local_time
from devopsellence.store.errors import PermissionDenied
from devopsellence.store.identities import user_of_operator

if TYPE_CHECKING:
    from cryptography import x509

    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Recipient:
    """A recipient, with what vouches for it: pairs of an approval and the statement that it has to be of.

    ``name`` is unique among the recipients of its ``kind``, ``owner`` the operator (of an operator's recipient).
    """

    kind: str
    name: str
    key: str
    owner: str
    added_by: str
    added_at: Timestamp
    approvals: tuple[tuple[RecipientApproval, Statement], ...]

    def entry(self, environment: str) -> str:
        """Return the line about a confirmation for an environment, in the file of confirmed recipients."""
        return f"{environment} {self.kind} {self.name} {self.key}"

    def __str__(self) -> str:
        added = " ".join(filter(None, [f"by {self.added_by}" if self.added_by else "", local_time(self.added_at)]))
        return f"{self.kind} {self.name}, {self.key}" + (f" (added {added})" if added else "")


@dataclass(frozen=True)
class RecipientTrust:
    """Facts that decide about recipients in an environment: roles, denied certificates, authority, confirmations."""

    environment: str
    policy: AccessPolicy
    authorities: Sequence[x509.Certificate]
    own_key: str
    known: Collection[str]

    def reason(self, recipient: Recipient) -> str:
        """Return why a recipient counts, in a few words; "" if it does not."""
        if recipient.key == self.own_key:
            return "yours"
        for signed in recipient.approvals:
            signer = self._signer(*signed)
            if signer is not None and self._may_approve(signer):
                return f"approved by {signer.common_name}"
            if signer is not None and self._is_admitted(signer, recipient):
                return f"of {recipient.owner}, who was added by an admin"
        return "confirmed by you" if recipient.entry(self.environment) in self.known else ""

    def _is_admitted(self, signer: Certificate, recipient: Recipient) -> bool:
        """Return True if the owner has signed, and an admin has admitted the owner."""
        access = self.policy.operators.get(recipient.owner)
        if access is None or signer.common_name != user_of_operator(recipient.owner):
            return False
        admitted_by = self._signer(access.admission, approval.of_operator(recipient.owner))
        return admitted_by is not None and self._may_approve(admitted_by)

    def _signer(self, signed: RecipientApproval, statement: Statement) -> Certificate | None:
        with suppress(InvalidApproval):
            return approval.approver(signed, statement, self.authorities)
        return None

    def _may_approve(self, signer: Certificate) -> bool:
        return _permits(self.policy, signer, Action.GRANT, self.environment)


async def sealing_recipients(etcd: Etcd, ref: EnvironmentRef, me: OperatorIdentity, names: Iterable[str]) -> Recipients:
    """Return the recipients to encrypt for: the nodes ``names``, and the operators who may set secrets there.

    A key that is only in the heartbeat of an agent is copied to the record of its node.

    Raises:
        AnswerNeeded: ``recipients_unconfirmed`` (exit code 2): a recipient does not count yet. Nothing was written.
    """
    records = await recipients.read_records(etcd, names)
    if etcd.settings.cert is None:
        return await _used(etcd, records, records.recipients())
    confirmed = known.of_settings(etcd.settings)
    trust = await trust_of(etcd, str(ref), me.identity.recipient, confirmed)
    used = permitted(records, trust)
    new = [recipient for recipient in all_recipients(records, used) if not trust.reason(recipient)]
    if new:
        raise unconfirmed(ref, new, confirmed)
    return await _used(etcd, records, records.recipients(used))


async def trust_of(etcd: Etcd, environments: str, own_key: str, confirmed: KnownRecipients | None) -> RecipientTrust:
    """Return what decides about the recipients in an environment, or in all of a pattern."""
    reader, keys = Reader(etcd), etcd.keys
    accesses = await reader.get_prefix(keys.all_operator_access_prefix, OperatorAccess)
    denied = await reader.get(keys.denied, DenyList)
    ca_cert = etcd.settings.ca_cert
    return RecipientTrust(
        environment=environments,
        policy=AccessPolicy({access.name: access for access in accesses.values()}, denied or DenyList()),
        authorities=await asyncio.to_thread(load_certificates, ca_cert) if ca_cert is not None else (),
        own_key=own_key,
        known=await asyncio.to_thread(confirmed.load) if confirmed is not None else frozenset(),
    )


def permitted(records: RecipientRecords, trust: RecipientTrust) -> list[Operator]:
    """Return the operators' recipients but for those of operators who may not set secrets in the environment. Pure."""
    return [
        operator
        for operator in records.operators
        if not operator.operator
        or operator.age_recipient == trust.own_key
        or _permits(
            trust.policy, Certificate(user_of_operator(operator.operator)), Action.WRITE_SECRETS, trust.environment
        )
    ]


def all_recipients(records: RecipientRecords, operators: Iterable[Operator]) -> list[Recipient]:
    """Return the recipients of the nodes and of ``operators``, each with its approvals. Pure."""
    return [
        *(of_operator(operator) for operator in operators),
        *(of_node(records.nodes[name], key) for name, key in records.keys.items()),
    ]


def of_operator(operator: Operator) -> Recipient:
    """Return the recipient of an operator. Pure."""
    own = approval.of_operator(operator.operator, operator.age_recipient)
    return Recipient(
        kind="operator",
        name=operator.name,
        key=operator.age_recipient,
        owner=operator.operator,
        added_by=operator.added_by,
        added_at=operator.created_at,
        approvals=((operator.approval, own),) if operator.HasField("approval") else (),
    )


def of_node(node: Node, key: str) -> Recipient:
    """Return the recipient of a node with the public key that its agent reports. Pure.

    The approval of a machine without a key is for the first one that it reports.
    """
    statements = [approval.of_node(node, key)]
    if node.age_recipient in ("", key):
        statements.append(approval.of_node(node))
    approvals = [(node.approval, statement) for statement in statements] if node.HasField("approval") else []
    return Recipient("node", node.name, key, "", "", node.registered_at, tuple(approvals))


def unconfirmed(ref: EnvironmentRef, new: Sequence[Recipient], confirmed: KnownRecipients | None) -> AnswerNeeded:
    """Return the error about recipients that do not count yet; a yes to its question confirms them."""
    names = few([f"{recipient.kind} {recipient.name}" for recipient in new])
    accept: Callable[[], None] | None = None
    if confirmed is not None:
        accept = partial(confirmed.add, [recipient.entry(str(ref)) for recipient in new])
    return AnswerNeeded(
        "recipients_unconfirmed",
        f"new recipients of the secrets of {ref}, not approved by an admin: {names}; nothing was encrypted for them",
        question="New recipients of the secrets of {}, not approved by an admin:\n{}\nEncrypt for them?".format(
            ref, "\n".join(f"  {recipient}" for recipient in new)
        ),
        accept=accept,
        findings=[Finding("recipient_new", str(recipient)) for recipient in new],
        next_actions=[NextAction("if you trust them", f"devopsellence operator recipients approve --env {ref}")],
    )


async def _used(etcd: Etcd, records: RecipientRecords, used: Recipients) -> Recipients:
    """Copy the keys that nodes report to their records, and return ``used``."""
    stale = [name for name, key in records.keys.items() if key != records.nodes[name].age_recipient]
    await concurrently(record_key(etcd, records.nodes[name], records.keys[name]) for name in stale)
    return used


async def record_key(etcd: Etcd, node: Node, key: str) -> None:
    """Write the public key of a machine to the record of its node, approved by this operator if it may.

    Raises:
        CliError: ``node_unknown``.
    """
    approved = Node()
    approved.CopyFrom(node)
    await asyncio.to_thread(approval.approve_node, etcd.settings, approved, key)

    def edit(before: Node | None) -> Node:
        if before is None:
            raise errors.node_unknown(node.name)
        after = Node()
        after.CopyFrom(before)
        # Another uid: the node was registered again in the meantime, and the key belongs to another machine.
        if before.uid == node.uid:
            after.age_recipient = key
            after.approval.CopyFrom(approved.approval)
        return after

    # An operator who may not change nodes leaves the copy to another.
    with suppress(PermissionDenied):
        await transaction.change(etcd, etcd.keys.node(node.name), Node, edit)


def _permits(policy: AccessPolicy, caller: Certificate, action: Action, environment: str) -> bool:
    try:
        policy.check(caller, action, environment)
    except AccessDenied:
        return False
    return True
