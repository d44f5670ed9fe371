"""``operator``: add operators, grant and revoke roles, remove operators, deny certificates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from devopsellence.access.roles import Role
from devopsellence.cli import context
from devopsellence.cli.commands.cluster.cluster import issued_text
from devopsellence.cli.commands.cluster.node_drain import dry_run_option, exposure_document
from devopsellence.cli.commands.cluster.operator_options import ROLES, environments_option, roles_option
from devopsellence.cli.commands.cluster.operator_recipients import recipients
from devopsellence.cli.commands.cluster.operator_token import token
from devopsellence.cli.commands.cluster.signing import after_grant, choose
from devopsellence.cli.commands.complete import complete_operators, complete_recipients
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import pki_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.stored_pb2 import OperatorAccess
    from devopsellence.cli.operators.removal import OperatorRemoval
    from devopsellence.store.etcd import Etcd


@click.group(cls=CommandGroup)
def operator() -> None:
    """Add and remove operators, and grant them roles.

    A viewer reads the records of environments, but no secrets. A deployer also deploys, rolls back, sets secrets and
    reads logs. An admin grants and revokes access, and with the role in all environments also changes nodes and removes
    operators. The role exec permits commands in containers, and tasks. No operator grants more than it may do itself.

    \b
    Example:
      devopsellence operator add ann --role deployer --role exec --environment 'acme/*'
      devopsellence operator list
      devopsellence operator remove ann
    """


operator.add_command(token)
operator.add_command(recipients)


@operator.command()
@click.argument("name")
@roles_option
@environments_option(default="all environments")
@pki_option
@click.option("--out", metavar="DIR", help="Folder for the three files.  [default: in the folder of the CA]")
@pass_output
@click.pass_context
def add(
    ctx: click.Context,
    output: Output,
    name: str,
    roles: Sequence[str],
    patterns: Sequence[str],
    pki: str | None,
    out: str | None,
) -> None:
    """Create the certificate of an operator and grant roles.

    Uses the cluster's CA with the certificate of root if they are on this machine. Otherwise a gateway signs, for an
    admin of all environments, who gives no more roles than its own. Makes the key here, and writes ca.crt, tls.crt and
    tls.key to a folder. Running the command again completes it, or renews the certificate. The name of a removed
    operator cannot be used again, because its certificate stays denied.

    \b
    Example:
      devopsellence operator add ann --role deployer --environment 'acme/*' --out ./ann
      devopsellence operator add ops --role deployer --role exec --role admin
    """
    from devopsellence.access.rights import record_of
    from devopsellence.cli.cluster import issue
    from devopsellence.cli.cluster.folder import CertificateBundle
    from devopsellence.cli.operators import access

    request = issue.operator_request(name)
    rights = access.parse_grants(roles, patterns or ["*"])
    signing = choose(ctx, pki)
    bundle = CertificateBundle(Path(out).absolute()) if out else signing.folder.operator(name)

    async def grant(etcd: Etcd) -> None:
        await access.check_addable(etcd, name, rights)
        await access.add(etcd, name, rights)

    # First the access, which a gateway requires before it signs.
    context.run(ctx, grant, settings=signing.settings)
    with after_grant(name), signing.locked(bundle):
        issued = issue.issue(signing.signer, bundle, request, issue.now())
    record = record_of(name, rights)
    where = ",".join(signing.settings.endpoints)
    step = NextAction(
        "on the operator's machine, with this folder",
        f"devopsellence context add <name> --certificates <folder> --etcd-endpoints {where} --use",
    )
    output.result(
        "operator add",
        f"{issued_text(issued, request, granted=False)}\nOperator {name}: {access.roles_text(record)}.\n"
        f"{step.label[0].upper()}{step.label[1:]}: {step.command}",
        next_actions=[step],
        operator=name,
        roles=access.roles_document(record),
        common_name=request.common_name,
        folder=str(bundle.root),
        outcome=issued.outcome,
    )


@operator.command("list")
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List operators with their roles, and denied certificates.

    Operators without the role admin see themselves only. Root is not listed: it may do everything.

    \b
    Example:
      devopsellence operator list
      devopsellence operator list -o json
    """
    from datetime import UTC, datetime

    from devopsellence.access.denied import denial_of
    from devopsellence.cli.operators import access
    from devopsellence.cli.util.text import columns, since
    from devopsellence.store.identities import user_of_operator

    known = context.run(ctx, access.known_operators)
    for problem in known.problems:
        output.warning(f"{problem.key} is {problem.reason}; it gives no access")
    if known.only_self:
        output.warning("only your own access is shown; that of others needs the role admin")
    now = datetime.now(UTC)
    denied = {name for name in known.operators if denial_of(known.denied, user_of_operator(name), "")}
    rows = [
        [name, access.roles_text(record), since(record.created_at, now), _state(record, denied=name in denied)]
        for name, record in known.operators.items()
    ]
    denials = [
        [entry.name or f"serial {entry.serial}", since(entry.denied_at, now), entry.reason]
        for entry in known.denied.certificates
    ]
    tables = [columns(("OPERATOR", "ROLES", "SINCE", "STATE"), rows) if rows else "No operator but root has access."]
    tables += [columns(("DENIED CERTIFICATE", "SINCE", "REASON"), denials)] if denials else []
    output.result(
        "operator list",
        "\n\n".join(tables),
        operators=[
            {
                "operator": name,
                "roles": access.roles_document(record),
                "since": _time(record, "created_at"),
                "denied": name in denied,
                "token": bool(record.tokens),
            }
            for name, record in known.operators.items()
        ],
        denied=[
            {
                "name": entry.name or None,
                "serial": entry.serial or None,
                "since": _time(entry, "denied_at"),
                "expires_at": _time(entry, "expires_at"),
                "reason": entry.reason,
            }
            for entry in known.denied.certificates
        ],
        problems=[{"key": problem.key, "reason": problem.reason} for problem in known.problems],
    )


@operator.command()
@click.argument("name", shell_complete=complete_operators)
@roles_option
@environments_option(required=True)
@pass_output
@click.pass_context
def grant(ctx: click.Context, output: Output, name: str, roles: Sequence[str], patterns: Sequence[str]) -> None:
    """Grant an operator roles, in addition to those that it has.

    Needs the role admin in these environments, and everything that the granted role permits.

    \b
    Example:
      devopsellence operator grant ann --role exec --environment acme/shop/staging
    """
    from devopsellence.cli.operators import access
    from devopsellence.store.keys import check_name

    check_name("operator", name)
    rights = access.parse_grants(roles, patterns)
    record = context.run(ctx, lambda etcd: access.grant(etcd, name, rights))
    _show_roles(output, "operator grant", name, record)


@operator.command()
@click.argument("name", shell_complete=complete_operators)
@click.option("--role", type=ROLES, required=True, help="Role.")
@environments_option(default="wherever the operator has the role")
@pass_output
@click.pass_context
def revoke(ctx: click.Context, output: Output, name: str, role: str, patterns: Sequence[str]) -> None:
    """Revoke a role of an operator.

    Open logs, commands and watches that the role permitted end within seconds. Needs the role admin in these
    environments.

    \b
    Example:
      devopsellence operator revoke ann --role exec
      devopsellence operator revoke ann --role deployer --environment acme/shop/production
    """
    from devopsellence.cli.operators import access
    from devopsellence.store.keys import check_name

    check_name("operator", name)
    access.parse_grants([role], patterns)
    record = context.run(ctx, lambda etcd: access.revoke(etcd, name, Role(role), patterns))
    _show_roles(output, "operator revoke", name, record)


@operator.command()
@destroys("denies the certificate of the operator for good, and deletes its access", unless="dry_run")
@click.argument("name", shell_complete=complete_operators)
@click.option(
    "--recipient",
    "more_recipients",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_recipients,
    help="Also delete this age recipient (repeatable).",
)
@dry_run_option
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, name: str, more_recipients: Sequence[str], dry_run: bool) -> None:
    """Remove an operator: certificate, roles and age recipients.

    Gateways and agents refuse the certificate from then on, and end its open logs, commands and watches. Secrets that
    are set later are not encrypted for the operator any more. Prints the secrets and certificates that the operator
    could decrypt: set new values, because the operator may have kept the old ones. Needs the role admin in all
    environments.

    \b
    Example:
      devopsellence operator remove ann --dry-run
      devopsellence operator remove ann -y
    """
    from devopsellence.cli.operators import removal
    from devopsellence.store.keys import check_name

    check_name("operator", name)
    planned = context.run(ctx, lambda etcd: removal.plan(etcd, name, more_recipients))
    if not dry_run and not planned.nothing:
        confirm(ctx, f"This denies the certificate of operator {name} for good, and deletes its access.")
        context.run(ctx, lambda etcd: removal.remove(etcd, planned))
    for recipient in planned.unclear:
        output.warning(
            f"the age recipient {recipient} names no operator; if it is of {name}, delete it: "
            f"devopsellence operator remove {name} --recipient {recipient}"
        )
    output.result(
        "operator remove",
        _removed_text(planned, dry_run=dry_run),
        operator=name,
        dry_run=dry_run,
        removed=not dry_run and not planned.nothing,
        recipients=list(planned.recipients),
        recipients_unclear=list(planned.unclear),
        **exposure_document(planned.exposed),
    )


@operator.command()
@destroys("denies a certificate that may be in use", unless="undo")
@click.argument("serial")
@click.option("--reason", metavar="TEXT", default="", help="Reason, shown to the caller.")
@click.option("--undo", is_flag=True, help="Accept the certificate again.")
@pass_output
@click.pass_context
def deny(ctx: click.Context, output: Output, serial: str, reason: str, undo: bool) -> None:
    """Deny a single certificate by its serial number.

    Gateways and agents refuse it from then on, and all that was renewed from it. For a stolen certificate of an
    operator or node that stays: issue another one first (cluster issue --force). Its serial number: openssl x509
    -noout -serial -in tls.crt

    \b
    Example:
      devopsellence operator deny 1F2E3D --reason 'laptop stolen'
      devopsellence operator deny 1F2E3D --undo
    """
    from devopsellence.access.denied import InvalidDenial, check_denial
    from devopsellence.api.v1.stored_pb2 import DeniedCertificate
    from devopsellence.cli.operators import removal
    from devopsellence.cli.options import note_problem

    number = serial.removeprefix("serial=").replace(":", "").lower().lstrip("0")
    try:
        check_denial(DeniedCertificate(serial=number))
    except InvalidDenial:
        message = f"{serial!r} is no serial number: it has up to 40 hexadecimal digits"
        raise CliError("invalid_serial", message, exit_code=2) from None
    if problem := note_problem(reason):
        raise click.BadParameter(problem, param_hint="--reason")
    if undo:
        context.run(ctx, lambda etcd: removal.allow_serial(etcd, number))
        text = f"The certificate with the serial number {number} is accepted again, and its renewals."
        output.result("operator deny", text, serial=number, denied=False)
        return
    confirm(ctx, f"This denies the certificate of serial number {number} and its renewals. Its owner loses access.")
    signed = context.run(ctx, lambda etcd: removal.deny_serial(etcd, number, reason))
    lines = [f"The certificate with the serial number {number} is denied."]
    lines += [f"Denied as well, renewed from it: {record.serial}" for record in signed.renewals]
    # Its rightful owner may have had them signed: not denied, but to be looked at.
    lines += [f"Signed with it for {record.identity}, not denied: {record.serial}" for record in signed.others]
    output.result(
        "operator deny",
        "\n".join(lines),
        serial=number,
        denied=True,
        renewals=[record.serial for record in signed.renewals],
        signed=[{"serial": record.serial, "identity": record.identity} for record in signed.others],
    )


def _show_roles(output: Output, operation: str, name: str, record: OperatorAccess) -> None:
    from devopsellence.cli.operators import access

    left = NextAction("remove the operator", f"devopsellence operator remove {name}")
    roles = access.roles_document(record)
    text = f"Operator {name}: {access.roles_text(record)}."
    output.result(operation, text, next_actions=[] if roles else [left], operator=name, roles=roles)


def _removed_text(planned: OperatorRemoval, *, dry_run: bool) -> str:
    from devopsellence.cli.commands.cluster.node_drain import exposure

    name = planned.name
    if planned.nothing:
        return f"Nothing to remove: operator {name} was removed before."
    lines = [
        f"Operator {name} would be removed." if dry_run else f"Removed operator {name}; its certificate is denied."
    ]
    if planned.exposed:
        lines.append(exposure(planned.exposed, whose="operator"))
    return "\n".join(lines)


def _state(record: OperatorAccess, *, denied: bool) -> str:
    return "denied" if denied else "token" if record.tokens else ""


def _time(record: Any, field: str) -> str | None:
    return getattr(record, field).ToJsonString() if record.HasField(field) else None
