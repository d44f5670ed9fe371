"""``cluster``: certificates and users for a cluster on machines of one's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.certificates.pki import CertificateRequest
    from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder
    from devopsellence.cli.cluster.issue import IssuedBundle

pki_option = click.option(
    "--pki", metavar="DIR", help="The folder of the cluster's authority; by default in devopsellence's state folder."
)


@click.group()
def cluster() -> None:
    """Set up a cluster on machines of your own: its authority, certificates, etcd's users.

    \b
    Example:
      devopsellence cluster init --etcd e1=10.0.0.1 --etcd e2=10.0.0.2 --etcd e3=10.0.0.3
      devopsellence cluster prepare
      devopsellence node register prod-1 --address 10.0.0.5
    """


@cluster.command()
@pki_option
@click.option("--etcd", "members", multiple=True, metavar="NAME=ADDRESS", help="A member of etcd; all of them.")
@click.option("--force", is_flag=True, help="Make a new authority and new keys: all certificates go anew.")
@pass_output
@click.pass_context
def init(ctx: click.Context, output: Output, pki: str | None, members: tuple[str, ...], force: bool) -> None:
    """Make the cluster's authority and the certificates of etcd, the controllers and the root operator.

    Nothing is sent anywhere: it says which folder goes to which machine. What serves already is kept, so that this may
    be repeated, with other members, or when certificates have grown old.

    \b
    Example:
      devopsellence cluster init --etcd e1=10.0.0.1 --etcd e2=10.0.0.2 --etcd e3=10.0.0.3
    """
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.cli.cluster.init import initialize, parse_members
    from devopsellence.store.keys import DEFAULT_PREFIX
    from devopsellence.store.settings import PREFIX

    prefix = context.connection_flags(ctx).get(PREFIX) or os.environ.get(PREFIX) or DEFAULT_PREFIX
    done = initialize(ClusterFolder.chosen(pki), parse_members(members), prefix, force=force)
    output.result("cluster init", done.text(), **done.document())


@cluster.command()
@pki_option
@pass_output
@click.pass_context
def prepare(ctx: click.Context, output: Output, pki: str | None) -> None:
    """Once etcd answers: make its first users and let nobody in any more who is not one of them.

    \b
    Example:
      devopsellence cluster prepare
    """
    from devopsellence.cli.cluster.access import root_settings
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.store import acl

    settings = root_settings(ClusterFolder.chosen(pki), context.connection_flags(ctx), os.environ)
    context.run(ctx, acl.enable, settings=settings)
    text = (
        f"etcd at {', '.join(settings.endpoints)} lets in only whoever has a certificate and a user.\n"
        "Next: start devopsellence-controller, then devopsellence node register <name>"
    )
    output.result("cluster prepare", text, endpoints=list(settings.endpoints))


@cluster.command()
@click.argument("kind", type=click.Choice(["node", "operator", "controller"]))
@click.argument("name", required=False)
@pki_option
@click.option("--uid", metavar="UID", help="A node's uid; without it etcd is asked.")
@click.option("--out", metavar="DIR", help="Where the three files go; a folder beside the authority by default.")
@click.option("--no-grant", is_flag=True, help="Do not let an operator into etcd now.")
@click.option("--force", is_flag=True, help="Make a new key, also where there is one.")
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
    """Make or renew a certificate: ca.crt, tls.crt and tls.key in a folder. An operator is let into etcd as well.

    A node's is for the machine that it was registered with; node register lets that into etcd.

    \b
    Example:
      devopsellence cluster issue operator ann
      devopsellence cluster issue node prod-1 --out ./prod-1
    """
    from devopsellence.cli.cluster import issue as issuing
    from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder

    folder = ClusterFolder.chosen(pki)
    authority = issuing.load(folder)
    usual, request = _party(ctx, folder, kind, name, uid)
    bundle = CertificateBundle(Path(out).absolute()) if out else usual
    with folder.locked():
        issued = issuing.issue(authority, bundle, request, issuing.now(), force=force)
    granted = kind == "operator" and not no_grant
    if granted:
        _let_in(ctx, folder, str(name), issued)
    output.result(
        "cluster issue",
        _issued_text(issued, request, granted=granted),
        common_name=request.common_name,
        folder=str(bundle.root),
        outcome=issued.outcome,
        why=issued.why,
        granted=granted,
    )


def _party(
    ctx: click.Context, folder: ClusterFolder, kind: str, name: str | None, uid: str | None
) -> tuple[CertificateBundle, CertificateRequest]:
    """Where the certificate of that party goes, and what it says."""
    from devopsellence.cli.certificates import subjects
    from devopsellence.cli.certificates.pki import CertificateError

    if kind == "controller":
        return folder.controller, subjects.controller()
    if name is None:
        raise CliError("usage", f"which {kind}? devopsellence cluster issue {kind} <name>", exit_code=2)
    # The request first: it checks the name before that becomes part of a path.
    if kind == "node":
        request = subjects.node(name, uid or _uid(ctx, folder, name))
        return folder.node(name), request
    try:
        request = subjects.operator(name)
    except CertificateError as error:
        raise CliError("invalid_name", str(error), exit_code=2) from error
    return folder.operator(name), request


def _uid(ctx: click.Context, folder: ClusterFolder, name: str) -> str:
    """The uid that the node was registered with, from etcd."""
    from devopsellence.cli.cluster.access import root_settings
    from devopsellence.cli.nodes import registry
    from devopsellence.store.keys import check_name

    check_name("node", name)
    try:
        settings = root_settings(folder, context.connection_flags(ctx), os.environ)
        return context.run(ctx, lambda etcd: registry.find(etcd, name), settings=settings).uid
    except CliError as error:
        say = NextAction("or say its uid", f"devopsellence cluster issue node {name} --uid <uid>")
        message = f"a node's certificate is for one machine, and its uid is not known: {error.message}"
        raise CliError(
            error.code, message, exit_code=error.exit_code, next_actions=[*error.next_actions, say]
        ) from error


def _let_in(ctx: click.Context, folder: ClusterFolder, name: str, issued: IssuedBundle) -> None:
    """Make the operator's user; what cannot be done now can be done by the same command later."""
    from devopsellence.cli.cluster.access import root_settings
    from devopsellence.store import acl

    try:
        settings = root_settings(folder, context.connection_flags(ctx), os.environ)
        context.run(ctx, lambda etcd: acl.grant_operator(etcd, name), settings=settings)
    except CliError as error:
        actions = [
            *error.next_actions,
            NextAction("then let the operator in", f"devopsellence cluster issue operator {name}"),
            NextAction("or leave that for later", f"devopsellence cluster issue operator {name} --no-grant"),
        ]
        message = f"the certificate is in {issued.bundle.root}, but {name} is not let into etcd: {error.message}"
        raise CliError(error.code, message, exit_code=error.exit_code, next_actions=actions) from error


def _issued_text(issued: IssuedBundle, request: CertificateRequest, *, granted: bool) -> str:
    why = f" ({issued.why})" if issued.why else ""
    user = " It is let into etcd." if granted else ""
    whose = f"{request.common_name} ({request.unit})" if request.unit else request.common_name
    return f"The certificate of {whose} is {issued.outcome}{why}: {issued.bundle.root}.{user}"
