"""``secret``: values for environment variables of services, encrypted for the nodes that run the services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from devopsellence.access.roles import Action
from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_secrets, complete_services
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.secrets.access import ReencryptResult
    from devopsellence.cli.secrets.records import SecretId
    from devopsellence.cli.store.snapshot import UnreadableKey
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=CommandGroup)
def secret() -> None:
    """Set, list and delete secrets.

    Values are encrypted for the nodes and operators of the cluster, and never shown.

    \b
    Example:
      devopsellence secret set DATABASE_URL --service web --stdin < url.txt
      devopsellence secret list
    """


def _which(command: F) -> F:
    """Add the arguments that name a secret."""
    decorators: list[Callable[[F], F]] = [
        # An extra argument may be a value, and click's own message would print it.
        click.argument("left_over", nargs=-1, type=click.UNPROCESSED, metavar=""),
        click.argument("name", shell_complete=complete_secrets),
        click.option(
            "--service", metavar="SERVICE", shell_complete=complete_services, help="Service that uses the secret."
        ),
        click.option("--registry", is_flag=True, help="Password of the image registry, instead of a service's secret."),
    ]
    for decorate in decorators:
        command = decorate(command)
    return command


@secret.command("set")
@_which
@click.option("--stdin", is_flag=True, help="Read the value from stdin, without a trailing newline.")
@click.option("--value", metavar="VALUE", help="Value; visible in the process list, so prefer --stdin.")
@click.option("--allow-empty", is_flag=True, help="Allow an empty value.")
@click.option("--apply", is_flag=True, help="Redeploy the running release now, with this value.")
@environment_option
@pass_output
@click.pass_context
def set_(
    ctx: click.Context,
    output: Output,
    name: str,
    left_over: Sequence[str],
    service: str | None,
    registry: bool,
    stdin: bool,
    value: str | None,
    allow_empty: bool,
    apply: bool,
) -> None:
    """Set a secret of a service.

    Containers get the value with the next deploy, or now with --apply. Without --stdin and --value, the command prompts
    for the value.

    \b
    Example:
      devopsellence secret set DATABASE_URL --service web --stdin < url.txt
      devopsellence secret set SEARCH_KEY --service web --apply
      devopsellence secret set REGISTRY_PASSWORD --registry --stdin < password.txt
    """
    from devopsellence.cli import errors
    from devopsellence.cli.deploy import reapply
    from devopsellence.cli.secrets import value as value_input

    secret_id = _secret_id(name, left_over, service, registry)
    plaintext = value_input.obtain(output, stdin=stdin, argument=value, allow_empty=allow_empty)
    note = reapply.InterruptNote()

    async def work(etcd: Etcd) -> None:
        ref = await context.environment(ctx, etcd, Action.WRITE_SECRETS)
        for warning in reapply.config_warnings(context.config_path(), ref, secret_id):
            output.warning(warning)
        await reapply.set_secret(etcd, ref, secret_id, plaintext, output, note, apply=apply)

    try:
        context.run(ctx, work)
    except KeyboardInterrupt as error:
        raise errors.interrupted(error, note.text) from error


@secret.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the secrets of an environment.

    Shows versions, who set them, and the nodes able to decrypt them; never values.

    \b
    Example:
      devopsellence secret list
    """
    from devopsellence.cli.secrets import listing

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[listing.SecretEntry], list[UnreadableKey]]:
        ref = await context.environment(ctx, etcd, Action.LIST_SECRETS)
        return ref, *await listing.read_entries(etcd, ref)

    ref, entries, problems = context.run(ctx, work)
    _warn(output, problems)
    text = listing.table(entries, datetime.now(UTC)) if entries else f"{ref} has no secrets."
    output.result(
        "secret list",
        text,
        environment=str(ref),
        secrets=[listing.document(entry) for entry in entries],
        problems=[{"key": problem.key, "reason": problem.reason} for problem in problems],
    )


@secret.command()
@destroys("deletes the secret with all its versions")
@_which
@click.option("--force", is_flag=True, help="Delete even if a release in use names it.")
@environment_option
@pass_output
@click.pass_context
def delete(
    ctx: click.Context,
    output: Output,
    name: str,
    left_over: Sequence[str],
    service: str | None,
    registry: bool,
    force: bool,
) -> None:
    """Delete a secret with all its versions.

    Running containers keep the value.

    \b
    Example:
      devopsellence secret delete SEARCH_KEY --service web
    """
    from devopsellence.cli.secrets import releases, vault
    from devopsellence.cli.store.releases import releases_in_use

    secret_id = _secret_id(name, left_over, service, registry)

    async def check_unused(etcd: Etcd) -> EnvironmentRef:
        ref = await context.environment(ctx, etcd, Action.WRITE_SECRETS)
        for release in () if force else await releases_in_use(etcd, ref):
            if releases.pinned(release, secret_id):
                raise vault.secret_in_use(ref, secret_id, release.number)
        return ref

    ref = context.run(ctx, check_unused)
    confirm(ctx, f"This permanently deletes secret {secret_id} of {ref}.")
    context.run(ctx, lambda etcd: vault.delete(etcd, ref, secret_id))
    text = f"Deleted secret {secret_id} of {ref}."
    output.result("secret delete", text, environment=str(ref), service=secret_id.service, name=secret_id.name)


@secret.command()
@environment_option
@pass_output
@click.pass_context
def reencrypt(ctx: click.Context, output: Output) -> None:
    """Encrypt secrets for new nodes and operators.

    Re-encrypts secrets and private keys of certificates for all attached nodes and operators. Values and versions do
    not change.

    \b
    Example:
      devopsellence secret reencrypt --env production
    """
    from devopsellence.cli.secrets import access

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, ReencryptResult]:
        ref = await context.environment(ctx, etcd, Action.WRITE_SECRETS)
        return ref, await access.reencrypt(etcd, ref)

    ref, done = context.run(ctx, work)
    _warn(output, done.problems)
    if done.keyless:
        names = ", ".join(done.keyless)
        output.warning(f"the public key of {names} is not known yet: encrypted only for the other nodes")
    if done.undecryptable:
        hosts = ", ".join(done.undecryptable)
        output.warning(f"cannot decrypt the private keys of {hosts}: the controller obtains new certificates")
    names = ", ".join([*map(str, done.secrets), *(f"the key of {host}" for host in done.hosts)])
    text = f"Re-encrypted in {ref}: {names}." if names else f"No change: every node and operator of {ref} has access."
    output.result(
        "secret reencrypt",
        text,
        environment=str(ref),
        secrets=[{"service": secret.service, "name": secret.name} for secret in done.secrets],
        certificates=list(done.hosts),
        nodes_without_key=list(done.keyless),
    )


def _secret_id(name: str, left_over: Sequence[str], service: str | None, registry: bool) -> SecretId:
    """Return the id of the secret named by the arguments.

    Raises:
        CliError: ``usage`` (exit code 2); the message repeats no argument, because an argument may be a value.
        InvalidName: ``name`` or ``service`` is not a valid name.
    """
    from devopsellence.cli.secrets.records import SecretId
    from devopsellence.store.keys import REGISTRY, check_name

    if left_over or "=" in name:
        pipe = NextAction("pipe the value", "devopsellence secret set <name> --service <service> --stdin")
        message = "give only the name of the secret; pass its value with --stdin"
        raise CliError("usage", message, exit_code=2, next_actions=[pipe])
    if registry == (service is not None):
        raise CliError("usage", "give either --service SERVICE or --registry", exit_code=2)
    check_name("secret", name)
    return SecretId(REGISTRY if service is None else check_name("service", service), name)


def _warn(output: Output, problems: Sequence[UnreadableKey]) -> None:
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
