"""Recipients of an environment's secrets: who vouches for each, and approvals by an admin."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from devopsellence.access.patterns import ANY
from devopsellence.access.roles import Action
from devopsellence.api.v1.stored_pb2 import Node, Operator
from devopsellence.certificates.approval import approve_operator
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import identity, known, recipients, sealing
from devopsellence.cli.secrets.sealing import Recipient
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.rights import own_rights
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class ListedRecipient:
    """Recipient with the reason why it counts; "" if it does not yet."""

    recipient: Recipient
    reason: str


async def listed(etcd: Etcd, ref: EnvironmentRef) -> list[ListedRecipient]:
    """Return the recipients of an environment's secrets: operators who may set secrets, then attached nodes.

    Raises:
        CliError: ``certificate_missing``: in a cluster without certificates nothing can be approved.
    """
    if etcd.settings.cert is None:
        raise CliError("certificate_missing", "this cluster has no certificates, so every recipient counts")
    records = await recipients.read_records(etcd, await recipients.attached(etcd, ref))
    own_key = await identity.existing_key(etcd.settings)
    trust = await sealing.trust_of(etcd, str(ref), own_key, known.of_settings(etcd.settings))
    used = sealing.permitted(records, trust)
    return [ListedRecipient(recipient, trust.reason(recipient)) for recipient in sealing.all_recipients(records, used)]


async def to_approve(etcd: Etcd, ref: EnvironmentRef, names: Collection[str]) -> list[Recipient]:
    """Return the recipients that do not count yet; with ``names``, those of them.

    Raises:
        CliError: ``recipient_unknown``: there is no such recipient. ``certificate_missing``.
    """
    found = await listed(etcd, ref)
    if unknown := sorted(set(names) - {entry.recipient.name for entry in found}):
        action = NextAction("list the recipients", f"devopsellence operator recipients list --env {ref}")
        raise CliError("recipient_unknown", f"{ref} has no recipient {', '.join(unknown)}", next_actions=[action])
    return [entry.recipient for entry in found if not entry.reason and (not names or entry.recipient.name in names)]


async def may_approve(etcd: Etcd, ref: EnvironmentRef) -> bool:
    """Return True if an approval of this operator counts for others: records of recipients belong to the cluster."""
    rights = await own_rights(etcd)
    return rights is None or (rights.permit(Action.GRANT, str(ref)) and rights.permit_somewhere(Action.DENY))


async def approve_again(etcd: Etcd) -> None:
    """Approve all recipients that an admin of all environments has approved.

    For a new authority: the approvals before are signed with certificates of the former one.

    Raises:
        CliError: as :func:`approve`.
    """
    nodes = await Reader(etcd).get_prefix(etcd.keys.nodes_prefix, Node)
    names = [etcd.keys.parse_node(key) for key in nodes]
    records = await recipients.read_records(etcd, names)
    trust = await sealing.trust_of(etcd, ANY, "", None)
    found = sealing.all_recipients(records, records.operators)
    await approve(etcd, [recipient for recipient in found if trust.reason(recipient)])


async def approve(etcd: Etcd, approved: Collection[Recipient]) -> None:
    """Write the approval of this operator to the records of recipients, as they were shown.

    Raises:
        CliError: ``recipient_changed``: a record is about another key by now; ``node_unknown``, ``busy``.
    """
    records = await recipients.read_records(
        etcd, [recipient.name for recipient in approved if recipient.kind == "node"]
    )
    for recipient in approved:
        if recipient.kind == "operator":
            await _approve_operator(etcd, recipient)
        elif records.keys.get(recipient.name) != recipient.key:
            raise _changed(recipient)
        else:
            await sealing.record_key(etcd, records.nodes[recipient.name], recipient.key)


async def _approve_operator(etcd: Etcd, recipient: Recipient) -> None:
    signed = Operator(operator=recipient.owner, age_recipient=recipient.key)
    await asyncio.to_thread(approve_operator, etcd.settings, signed)

    def edit(before: Operator | None) -> Operator:
        if before is None or (before.age_recipient, before.operator) != (recipient.key, recipient.owner):
            raise _changed(recipient)
        after = Operator()
        after.CopyFrom(before)
        after.approval.CopyFrom(signed.approval)
        return after

    await transaction.change(etcd, etcd.keys.operator(recipient.name), Operator, edit)


def _changed(recipient: Recipient) -> CliError:
    message = f"{recipient.kind} {recipient.name} has changed its key meanwhile; nothing more was approved"
    return CliError("recipient_changed", message)
