"""``context``: add, choose, show, rename and remove named clusters."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli.commands.complete import complete_contexts
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.contexts.record import ClusterContext
    from devopsellence.cli.ssh.host import SshHost
    from devopsellence.store.settings import Settings

_ROWS: Final = {
    "endpoints": "Endpoints",
    "ca_cert": "CA certificate",
    "cert": "Certificate",
    "key": "Private key",
    "server_name": "Server name",
    "username": "User",
    "password_file": "Password file",
    "prefix": "Prefix",
    "ssh": "Through ssh",
}


def _ssh_host(_ctx: click.Context, _param: click.Parameter, value: str | None) -> SshHost | None:
    from devopsellence.cli.ssh.host import InvalidHost, SshHost

    try:
        return SshHost.parse(value) if value is not None else None
    except InvalidHost as error:
        raise click.BadParameter(str(error)) from error


@click.group(cls=CommandGroup)
def context() -> None:
    """Add, choose and show clusters with names.

    A context is a cluster with a name: addresses, files of certificate and key, prefix, and perhaps an ssh host through
    which everything is reached. Commands use the context of --context, else of DEVOPSELLENCE_CONTEXT, else of context
    use. A token, --etcd-endpoints and DEVOPSELLENCE_ETCD_ENDPOINTS come first; without any, the local cluster is used.

    \b
    Example:
      devopsellence context add prod --certificates ./ann --etcd-endpoints 10.0.0.1:2381,10.0.0.2:2381 --use
      devopsellence context list
      devopsellence context use staging
      devopsellence --context prod status
    """


@context.command()
@click.argument("name")
@click.option(
    "--certificates",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with ca.crt, tls.crt and tls.key, as operator add writes them.",
)
@click.option(
    "--ssh",
    metavar="[USER@]HOST[:PORT]",
    callback=_ssh_host,
    help="Reach the cluster through this host, such as an alias of ~/.ssh/config.",
)
@click.option("--use", is_flag=True, help="Use the context from now on.")
@pass_output
@click.pass_context
def add(
    ctx: click.Context, output: Output, name: str, certificates: Path | None, ssh: SshHost | None, use: bool
) -> None:
    """Add a context.

    Records the settings of the options --etcd-endpoints, --etcd-ca-cert, --etcd-cert, --etcd-key, --etcd-server-name,
    --etcd-username, --etcd-password-file and --prefix, else those of the DEVOPSELLENCE_ETCD_* variables. The files
    themselves are not copied.

    \b
    Example:
      devopsellence context add prod --certificates ./ann --etcd-endpoints 10.0.0.1:2381,10.0.0.2:2381
      devopsellence context add prod --use        # of the variables in this shell
      devopsellence context add home --certificates ./ann --etcd-endpoints 10.0.0.1:2381 --ssh ops@bastion
    """
    from devopsellence.cli import reach
    from devopsellence.cli.contexts import file
    from devopsellence.cli.contexts.record import ClusterContext

    added = ClusterContext(reach.through(_settings(ctx, certificates), ssh))
    contexts = file.change(lambda contexts: contexts.added(name, added, use=use))
    is_used = contexts.current == name
    steps = [] if is_used else [NextAction("use it", f"devopsellence context use {name}")]
    hint = "It is in use." if is_used else f"To use it: devopsellence context use {name}"
    output.result("context add", f"Added context {name}. {hint}", next_actions=steps, **_document(name, added, is_used))


@context.command("list")
@pass_output
def list_(output: Output) -> None:
    """List the contexts; a star marks the one in use.

    \b
    Example:
      devopsellence context list
      devopsellence context list -o json
    """
    from devopsellence.cli.contexts import file
    from devopsellence.cli.reach import described
    from devopsellence.cli.util.text import columns

    contexts = file.load()
    rows = [
        ["*" if name == contexts.current else "", name, described(found.settings)]
        for name, found in contexts.by_name.items()
    ]
    steps = [] if rows else [NextAction("add a context", "devopsellence context add --help")]
    output.result(
        "context list",
        columns(("", "CONTEXT", "ENDPOINTS"), rows) if rows else "No contexts. Add one: devopsellence context add",
        next_actions=steps,
        contexts=[_document(name, found, name == contexts.current) for name, found in contexts.by_name.items()],
        current=contexts.current or None,
        file=str(file.path()),
    )


@context.command()
@click.argument("name", required=False, shell_complete=complete_contexts)
@click.option("--none", "none", is_flag=True, help="Use no context: the local cluster again.")
@pass_output
@click.pass_context
def use(ctx: click.Context, output: Output, name: str | None, none: bool) -> None:
    """Use a context from now on, in all shells.

    \b
    Example:
      devopsellence context use prod
      devopsellence context use --none
    """
    from devopsellence.cli.choice import VARIABLE
    from devopsellence.cli.contexts import file
    from devopsellence.store.settings import ENDPOINTS

    if none == (name is not None):
        raise click.UsageError("Give the name of a context, or --none.", ctx)
    contexts = file.change(lambda contexts: contexts.using(name or ""))
    if os.environ.get(VARIABLE) or os.environ.get(ENDPOINTS):
        output.warning("this shell has variables that come first: devopsellence context show")
    text = f"Context {name} is in use." if name else "No context is in use."
    output.result("context use", text, context=contexts.current or None)


@context.command()
@click.argument("name", required=False, shell_complete=complete_contexts)
@pass_output
@click.pass_context
def show(ctx: click.Context, output: Output, name: str | None) -> None:
    """Show the cluster of the commands, or a context.

    Without a name: the cluster that commands of this shell use, and the reason.

    \b
    Example:
      devopsellence context show
      devopsellence context show prod
      devopsellence --context prod context show -o json
    """
    from devopsellence.cli.choice import choose
    from devopsellence.cli.contexts import file
    from devopsellence.cli.contexts.record import ClusterContext

    if name is not None:
        contexts = file.load()
        found = contexts.get(name)
        document = _document(name, found, name == contexts.current)
        output.result("context show", f"Context {name}\n{_table(found)}", **document)
        return
    choice = choose(ctx)
    found = ClusterContext(choice.settings)
    text = str(choice)
    output.result(
        "context show",
        f"{text[0].upper()}{text[1:]}.\n{_table(found)}",
        **_document(choice.context or None, found, in_use=True),
        source=choice.source,
        why=choice.why,
    )


@context.command()
@click.argument("old", shell_complete=complete_contexts)
@click.argument("new")
@pass_output
def rename(output: Output, old: str, new: str) -> None:
    """Rename a context; a context in use stays in use.

    \b
    Example:
      devopsellence context rename prod production
    """
    from devopsellence.cli.contexts import file

    contexts = file.change(lambda contexts: contexts.renamed(old, new))
    document = _document(new, contexts.get(new), contexts.current == new)
    output.result("context rename", f"Context {old} is now {new}.", **document, former=old)


@context.command()
@destroys("forgets the context; the files of certificate and key stay")
@click.argument("name", shell_complete=complete_contexts)
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, name: str) -> None:
    """Remove a context; the files of certificate and key stay.

    If the context was in use, none is in use any more.

    \b
    Example:
      devopsellence context remove prod
      devopsellence context remove prod -y
    """
    from devopsellence.cli.contexts import file

    contexts = file.load()
    removed = contexts.get(name)
    confirm(ctx, f"This forgets the context {name}; the files of certificate and key stay.")
    file.change(lambda contexts: contexts.without(name))
    was_used = contexts.current == name
    text = f"Removed context {name}." + (" No context is in use." if was_used else "")
    output.result("context remove", text, **_document(name, removed, was_used))


def _settings(ctx: click.Context, certificates: Path | None) -> Settings:
    """Return the settings to record, with absolute paths of files that can be read.

    Raises:
        CliError: ``settings_invalid`` (exit code 2).
    """
    from devopsellence.cli.choice import connection_flags
    from devopsellence.store.settings import CA_CERT, CERT, KEY, Settings, SettingsError

    flags = connection_flags(ctx)
    if certificates is not None:
        files = {CA_CERT: "ca.crt", CERT: "tls.crt", KEY: "tls.key"}
        if flags.keys() & files.keys():
            raise click.UsageError("--certificates names all three files; leave out the options for one.", ctx)
        flags |= {variable: str(certificates / name) for variable, name in files.items()}
    try:
        settings = Settings.from_environ({**os.environ, **flags})
    except SettingsError as error:
        raise CliError("settings_invalid", str(error), exit_code=2) from error
    if settings is None:
        message = "--etcd-endpoints (or DEVOPSELLENCE_ETCD_ENDPOINTS) is missing: a context has the cluster's addresses"
        raise CliError("settings_invalid", message, exit_code=2)
    paths = {
        name: path.absolute()
        for name in ("ca_cert", "cert", "key", "password_file")
        if (path := getattr(settings, name)) is not None
    }
    for path in paths.values():
        if not (path.is_file() and os.access(path, os.R_OK)):
            raise CliError("settings_invalid", f"cannot read {path}", exit_code=2)
    return replace(settings, **paths)


def _document(name: str | None, found: ClusterContext, in_use: bool) -> dict[str, Any]:
    return {"context": name, "in_use": in_use, **found.document()}


def _table(found: ClusterContext) -> str:
    document = found.document()
    texts = {key: ", ".join(value) if isinstance(value, list) else value for key, value in document.items()}
    return "\n".join(f"  {_ROWS[key]:<15} {text}" for key, text in texts.items())
