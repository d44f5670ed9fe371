"""``secret``: values that services get as environment variables, sealed for the nodes that run them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.secrets.access import ReencryptResult
    from devopsellence.cli.secrets.records import SecretId
    from devopsellence.cli.store.snapshot import Problem
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def secret() -> None:
    """Set, list and delete secrets. Values are sealed for nodes and operators, and never shown.

    \b
    Example:
      devopsellence secret set DATABASE_URL --service web --stdin < url.txt
      devopsellence secret list
    """


def _which(command: F) -> F:
    """The arguments that name a secret."""
    decorators: list[Callable[[F], F]] = [
        # What is left over may be a value, which click's own message would repeat.
        click.argument("left_over", nargs=-1, type=click.UNPROCESSED, metavar=""),
        click.argument("name"),
        click.option("--service", metavar="SERVICE", help="The service that gets it."),
        click.option("--registry", is_flag=True, help="The password of the registry, in place of a service's secret."),
    ]
    for decorate in decorators:
        command = decorate(command)
    return command


@secret.command("set")
@_which
@click.option("--stdin", is_flag=True, help="Read the value from stdin; a newline at its end is dropped.")
@click.option("--value", metavar="VALUE", help="The value itself; others can see it in the list of processes.")
@click.option("--allow-empty", is_flag=True, help="The value may be empty.")
@click.option("--apply", is_flag=True, help="Release it at once: the newest release again, with this value.")
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
    """Set secret NAME of a service. It reaches containers with the next deploy, or at once with --apply.

    Without --stdin and --value it is asked for on the terminal, without echo.

    \b
    Example:
      devopsellence secret set DATABASE_URL --service web --stdin < url.txt
      devopsellence secret set SEARCH_KEY --service web --apply
      devopsellence secret set REGISTRY_PASSWORD --registry --stdin < password.txt
    """
    from devopsellence.cli.deploy import reapply
    from devopsellence.cli.secrets import value as values

    named = _named(name, left_over, service, registry)
    plain = values.obtain(output, stdin=stdin, given=value, allow_empty=allow_empty)
    stage = reapply.InterruptNote()

    async def work(etcd: Etcd) -> None:
        ref = await context.environment(ctx, etcd)
        for warning in reapply.config_warnings(context.config_path(), ref, named):
            output.warning(warning)
        await reapply.set_secret(etcd, ref, named, plain, output, stage, apply=apply)

    try:
        context.run(ctx, work)
    except KeyboardInterrupt as error:
        raise CliError("interrupted", f"interrupted; {stage.words}", exit_code=130) from error


@secret.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the secrets of an environment: versions, who set them, who can open them. Never values.

    \b
    Example:
      devopsellence secret list
    """
    from devopsellence.cli.secrets import listing

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[listing.SecretEntry], list[Problem]]:
        ref = await context.environment(ctx, etcd)
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
@_which
@click.option("--force", is_flag=True, help="Also when the newest release refers to it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
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
    yes: bool,
) -> None:
    """Delete secret NAME of a service, with all its versions. Containers that run keep what they have.

    \b
    Example:
      devopsellence secret delete SEARCH_KEY --service web
    """
    from devopsellence.cli.secrets import releases, vault
    from devopsellence.cli.store.releases import newest

    named = _named(name, left_over, service, registry)

    async def look(etcd: Etcd) -> EnvironmentRef:
        ref = await context.environment(ctx, etcd)
        release = None if force else await newest(etcd, ref)
        if release is not None and releases.pinned(release, named):
            raise vault.in_use(ref, named, release.number)
        return ref

    ref = context.run(ctx, look)
    if not yes and output.is_tty and sys.stdin.isatty():
        click.confirm(f"This deletes secret {named} of {ref} for good. Go on?", abort=True)
    context.run(ctx, lambda etcd: vault.delete(etcd, ref, named))
    text = f"Secret {named} is deleted from {ref}."
    output.result("secret delete", text, environment=str(ref), service=named.service, name=named.name)


@secret.command()
@environment_option
@pass_output
@click.pass_context
def reencrypt(ctx: click.Context, output: Output) -> None:
    """Seal secrets, and the keys of certificates, for the nodes and operators that have come since.

    Values and versions stay.

    \b
    Example:
      devopsellence secret reencrypt --env production
    """
    from devopsellence.cli.secrets import access

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, ReencryptResult]:
        ref = await context.environment(ctx, etcd)
        return ref, await access.reencrypt(etcd, ref)

    ref, done = context.run(ctx, work)
    _warn(output, done.problems)
    if done.keyless:
        output.warning(f"no key is known of {', '.join(done.keyless)}: sealed for the others alone")
    if done.closed:
        hosts = ", ".join(done.closed)
        output.warning(f"the keys of {hosts} cannot be opened here: the controller obtains new certificates for them")
    names = ", ".join([*map(str, done.secrets), *(f"the key of {host}" for host in done.hosts)])
    text = f"Sealed anew in {ref}: {names}." if names else f"All secrets of {ref} are sealed for everybody already."
    output.result(
        "secret reencrypt",
        text,
        environment=str(ref),
        secrets=[{"service": each.service, "name": each.name} for each in done.secrets],
        certificates=list(done.hosts),
        nodes_without_key=list(done.keyless),
    )


def _named(name: str, left_over: Sequence[str], service: str | None, registry: bool) -> SecretId:
    """The secret that the arguments name.

    Raises:
        CliError: ``usage`` (exit code 2); holds nothing of what may be a value.
        InvalidName: one of them is no name.
    """
    from devopsellence.cli.secrets.records import SecretId
    from devopsellence.store.keys import REGISTRY, check_name

    if left_over or "=" in name:
        pipe = NextAction("pipe the value", "devopsellence secret set <name> --service <service> --stdin")
        message = "a secret's name is one word, and its value does not belong beside it on the command line"
        raise CliError("usage", message, exit_code=2, next_actions=[pipe])
    if registry == (service is not None):
        raise CliError("usage", "say whose secret it is: --service SERVICE, or --registry", exit_code=2)
    check_name("secret", name)
    return SecretId(REGISTRY if service is None else check_name("service", service), name)


def _warn(output: Output, problems: Sequence[Problem]) -> None:
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
