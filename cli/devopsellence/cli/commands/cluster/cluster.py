"""``cluster``: set up a cluster: certificates, and the access of operators."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli import context
from devopsellence.cli.choice import connection_flags, context_settings
from devopsellence.cli.commands.cluster.ca import ca
from devopsellence.cli.commands.cluster.cluster_certificates import certificates
from devopsellence.cli.commands.cluster.signing import Signing, after_grant, choose
from devopsellence.cli.commands.complete import complete_subjects
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import passphrase_options, pki_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.certificates.authority import CertificateRequest
    from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder
    from devopsellence.cli.cluster.issue import IssuedBundle
    from devopsellence.store.etcd import Etcd

#: Past participles of ``IssueOutcome`` for messages; JSON keeps the values themselves.
_OUTCOME_WORDS: Final = {"made": "created", "kept": "unchanged", "renewed": "renewed"}


@click.group(cls=CommandGroup)
def cluster() -> None:
    """Set up a cluster: certificates and the access of operators.

    cluster init creates a certificate authority (CA), and certificates for etcd, the controllers and you. Copy them to
    the machines, start etcd and the controllers, then register nodes.

    \b
    Example:
      devopsellence cluster init --etcd e1=10.0.0.1 --etcd e2=10.0.0.2 --etcd e3=10.0.0.3
      devopsellence node register prod-1 --address 10.0.0.5
    """


@cluster.command()
@destroys("--force replaces the CA and all certificates of the cluster", when="force")
@pki_option
@click.option("--etcd", "members", multiple=True, metavar="NAME=ADDRESS", help="Member of etcd (repeatable); give all.")
@click.option(
    "--controller",
    "controllers",
    multiple=True,
    metavar="ADDRESS",
    help="Machine of a controller (repeatable); give all.  [default: the machines of etcd]",
)
@passphrase_options
@click.option("--force", is_flag=True, help="Create a new CA and new keys; replaces all certificates.")
@pass_output
@click.pass_context
def init(
    ctx: click.Context,
    output: Output,
    pki: str | None,
    members: tuple[str, ...],
    controllers: tuple[str, ...],
    passphrase_file: Path | None,
    no_passphrase: bool,
    force: bool,
) -> None:
    """Create the CA and the certificates of the cluster.

    Creates certificates for etcd, the controllers and the root operator, and prints which folder to copy to which
    machine. Valid certificates are kept: run the command again to change the members of etcd or to renew certificates.
    Nodes and operators connect to the controllers, which serve etcd's API on port 2381.

    The key of the CA is encrypted with a passphrase. It signs an authority that lasts a year and signs certificates in
    its place, here and on the machines of the controllers.

    \b
    Example:
      devopsellence cluster init --etcd e1=10.0.0.1 --etcd e2=10.0.0.2 --etcd e3=10.0.0.3
    """
    from devopsellence.cli.cluster.folder import ClusterFolder, ControlPlane
    from devopsellence.cli.cluster.init import initialize, parse_controllers, parse_members
    from devopsellence.cli.cluster.passphrase import passphrase_from
    from devopsellence.store.keys import DEFAULT_PREFIX
    from devopsellence.store.settings import PREFIX

    if force:
        confirm(ctx, "This replaces the CA and all certificates: every machine of the cluster needs new ones.")
    prefix = connection_flags(ctx).get(PREFIX) or os.environ.get(PREFIX) or DEFAULT_PREFIX
    given = ControlPlane(parse_members(members), parse_controllers(controllers))
    passphrase = passphrase_from(output, passphrase_file, unencrypted=no_passphrase)
    done = initialize(ClusterFolder.chosen(pki), given, prefix, passphrase, force=force)
    register = NextAction("once etcd and a controller run, register a node", "devopsellence node register <name>")
    output.result("cluster init", done.text(), next_actions=[register], **done.document())


@cluster.command()
@destroys("--force replaces the existing key", when="force")
@click.argument("kind", type=click.Choice(["node", "operator", "controller"]))
@click.argument("name", required=False, shell_complete=complete_subjects)
@pki_option
@click.option("--uid", metavar="UID", help="uid of the node.  [default: read from etcd]")
@click.option("--out", metavar="DIR", help="Folder for the three files.  [default: in the folder of the CA]")
@click.option("--no-grant", is_flag=True, help="Do not grant the operator access to the cluster.")
@click.option("--force", is_flag=True, help="Replace an existing key.")
@pass_output
@click.pass_context
def issue(
    ctx: click.Context,
    output: Output,
    kind: str,
    name: str | None,
    pki: str | None,
    uid: str | None,
    out: str | None,
    no_grant: bool,
    force: bool,
) -> None:
    """Create or renew a certificate.

    The certificate is for a node, an operator or the controllers. Writes ca.crt, tls.crt and tls.key to a folder. An
    operator without access is also granted the roles deployer, exec and admin in all environments; operator add grants
    less. A node has access while it is registered. Without the cluster's CA on this machine, an admin of all
    environments has certificates of operators signed by a gateway.

    \b
    Example:
      devopsellence cluster issue operator ann
      devopsellence cluster issue node prod-1 --out ./prod-1
    """
    from devopsellence.cli.cluster import authority as authorities
    from devopsellence.cli.cluster import issue as issuing
    from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder

    signing = choose(ctx, pki) if kind == "operator" else None
    folder = signing.folder if signing is not None else ClusterFolder.chosen(pki)
    signer = signing.signer if signing is not None else authorities.load(folder, issuing.now())
    default_bundle, request = _subject(ctx, folder, kind, name, uid)
    bundle = CertificateBundle(Path(out).absolute()) if out else default_bundle
    if force:
        confirm(ctx, f"This replaces the key in {bundle.root}, if there is one.")
    granted = signing is not None and not no_grant
    if signing is not None and granted:
        _grant_operator(ctx, signing, str(name))
    locked = signing.locked(bundle) if signing is not None else folder.locked()
    with after_grant(str(name)) if granted else nullcontext(), locked:
        issued = issuing.issue(signer, bundle, request, issuing.now(), force=force)
    output.result(
        "cluster issue",
        issued_text(issued, request, granted=granted),
        common_name=request.common_name,
        folder=str(bundle.root),
        outcome=issued.outcome,
        why=issued.why,
        granted=granted,
    )


def _subject(
    ctx: click.Context, folder: ClusterFolder, kind: str, name: str | None, uid: str | None
) -> tuple[CertificateBundle, CertificateRequest]:
    """Return the default folder and the content of the certificate of a node, operator or controller."""
    from devopsellence.certificates import subjects
    from devopsellence.cli.cluster.issue import operator_request

    if kind == "controller":
        return folder.controller, subjects.controller(*folder.control_plane().controllers)
    if name is None:
        raise CliError("usage", f"missing name: devopsellence cluster issue {kind} <name>", exit_code=2)
    # Create the request first: it validates the name before the name becomes part of a path.
    if kind == "node":
        request = subjects.node(name, uid or _uid(ctx, folder, name))
        return folder.node(name), request
    request = operator_request(name)
    return folder.operator(name), request


def _uid(ctx: click.Context, folder: ClusterFolder, name: str) -> str:
    """Return the uid of the registered node, from etcd."""
    from devopsellence.cli.cluster.access import root_settings
    from devopsellence.cli.nodes import registry
    from devopsellence.store.keys import check_name

    check_name("node", name)
    try:
        settings = root_settings(folder, connection_flags(ctx), os.environ, context_settings(ctx))
        return context.run(ctx, lambda etcd: registry.find(etcd, name), settings=settings).uid
    except CliError as error:
        action = NextAction("or give the uid", f"devopsellence cluster issue node {name} --uid <uid>")
        message = f"cannot read the uid of node {name}, which its certificate needs: {error.message}"
        raise CliError(
            error.code, message, exit_code=error.exit_code, next_actions=[*error.next_actions, action]
        ) from error


def _grant_operator(ctx: click.Context, signing: Signing, name: str) -> None:
    """Record the access of the operator, which a gateway requires before it signs."""
    from devopsellence.access.rights import FULL_RIGHTS
    from devopsellence.cli.operators import access

    async def grant(etcd: Etcd) -> None:
        await access.check_addable(etcd, name, None)
        await access.add(etcd, name, FULL_RIGHTS)

    try:
        context.run(ctx, grant, settings=signing.settings)
    except CliError as error:
        actions = [
            *error.next_actions,
            NextAction("then grant access", f"devopsellence cluster issue operator {name}"),
            NextAction("or grant access later", f"devopsellence cluster issue operator {name} --no-grant"),
        ]
        message = f"{name} has no access to the cluster, and no certificate yet: {error.message}"
        raise CliError(error.code, message, exit_code=error.exit_code, next_actions=actions) from error


cluster.add_command(certificates)


def issued_text(issued: IssuedBundle, request: CertificateRequest, *, granted: bool) -> str:
    """Return the sentence about a certificate that was issued."""
    why = f" ({issued.why})" if issued.why else ""
    access = " The operator has access to the cluster." if granted else ""
    subject = f"{request.common_name} ({request.unit})" if request.unit else request.common_name
    return f"Certificate of {subject} {_OUTCOME_WORDS[issued.outcome]}{why}: {issued.bundle.root}.{access}"


cluster.add_command(ca)
