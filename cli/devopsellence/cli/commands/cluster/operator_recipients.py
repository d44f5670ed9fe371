"""``operator recipients``: list and approve the recipients that secrets are encrypted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_recipients
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.secrets.sealing import Recipient
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef


@click.group(cls=CommandGroup)
def recipients() -> None:
    """List and approve recipients of secrets.

    A recipient is the age key of a node or an operator. A new one is not used before somebody vouches for it: an admin
    who registers the node, adds the operator or approves the recipient, or you.

    \b
    Example:
      devopsellence operator recipients list --env production
      devopsellence operator recipients approve --env production
    """


@recipients.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the recipients of secrets, and who approved each.

    \b
    Example:
      devopsellence operator recipients list --env production
    """
    from devopsellence.cli.operators import recipients as known
    from devopsellence.cli.util.text import columns, iso, local_time

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[known.ListedRecipient]]:
        ref = await context.environment(ctx, etcd)
        return ref, await known.listed(etcd, ref)

    ref, found = context.run(ctx, work)
    rows = [
        [
            entry.recipient.kind,
            entry.recipient.name,
            entry.recipient.key,
            entry.recipient.added_by,
            local_time(entry.recipient.added_at),
            entry.reason or "NEW: not approved",
        ]
        for entry in found
    ]
    header = ("KIND", "NAME", "RECIPIENT", "ADDED BY", "ADDED", "STATE")
    output.result(
        "operator recipients list",
        columns(header, rows) if rows else f"{ref} has no recipients yet.",
        environment=str(ref),
        recipients=[
            {**_document(entry.recipient), "added_at": iso(entry.recipient.added_at), "reason": entry.reason or None}
            for entry in found
        ],
    )


@recipients.command()
@destroys("gives recipients access to secrets", late=True)
@click.argument("names", nargs=-1, shell_complete=complete_recipients)
@environment_option
@pass_output
@click.pass_context
def approve(ctx: click.Context, output: Output, names: Sequence[str]) -> None:
    """Approve new recipients of secrets, all or by name.

    With the role admin in all environments, and as root, the approval is signed and counts for everybody. Otherwise it
    counts for you: it is kept beside your age identity. Compare the keys with their owners first.

    \b
    Example:
      devopsellence operator recipients approve --env production
      devopsellence operator recipients approve ann.laptop-3f2a1c --env production -y
    """
    from devopsellence.cli.operators import recipients as known
    from devopsellence.cli.secrets.known import of_settings

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[Recipient], bool]:
        ref = await context.environment(ctx, etcd)
        return ref, await known.to_approve(etcd, ref, names), await known.may_approve(etcd, ref)

    ref, new, for_everybody = context.run(ctx, work)
    if new:
        shown = "\n".join(f"  {recipient}" for recipient in new)
        confirm(ctx, f"Secrets of {ref} will be encrypted for:\n{shown}\n")
    if new and for_everybody:
        context.run(ctx, lambda etcd: known.approve(etcd, new))
    elif new and (file := of_settings(context.connection(ctx))) is not None:
        file.add([recipient.entry(str(ref)) for recipient in new])
    approved = [f"{recipient.kind} {recipient.name}" for recipient in new]
    whose = "for everybody" if for_everybody else "for you alone, which needs no role"
    output.result(
        "operator recipients approve",
        f"Approved {whose}: {', '.join(approved)}." if new else f"{ref} has no new recipients.",
        environment=str(ref),
        approved=[_document(recipient) for recipient in new],
        for_everybody=for_everybody,
    )


def _document(recipient: Recipient) -> dict[str, Any]:
    return {
        "kind": recipient.kind,
        "name": recipient.name,
        "recipient": recipient.key,
        "operator": recipient.owner or None,
        "added_by": recipient.added_by or None,
    }
