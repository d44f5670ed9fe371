"""``operator token``: create, list and revoke tokens, the access of CI jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from devopsellence.access.patterns import ANY
from devopsellence.cli import context
from devopsellence.cli.commands.cluster.node_drain import dry_run_option, exposure, exposure_document
from devopsellence.cli.commands.cluster.operator_options import environments_option, roles_option
from devopsellence.cli.commands.cluster.signing import after_grant, choose
from devopsellence.cli.commands.complete import complete_operators
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import pki_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

_LIFE: Final = re.compile(r"([1-9]\d{0,4})([mhd])", re.ASCII)
_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_LONGEST: Final = timedelta(days=365)


def _life(_ctx: click.Context, _param: click.Parameter, value: str) -> timedelta:
    match = _LIFE.fullmatch(value)
    if match is None or (life := int(match[1]) * _UNITS[match[2]]) > _LONGEST:
        raise click.BadParameter(f"{value!r} is no time of at most {_LONGEST.days} days, such as 90d, 12h or 30m")
    return life


@click.group(cls=CommandGroup)
def token() -> None:
    """Create, list and revoke tokens: the access of CI jobs.

    A token is an operator whose certificate, private key and age identity are one line of text, with an end. A job
    passes it in the variable DEVOPSELLENCE_TOKEN, or in a file (--token-file).

    \b
    Example:
      devopsellence operator token create ci --env production --role deployer --expires 90d --out ci.token
      devopsellence operator token list
      devopsellence operator token revoke ci
    """


@token.command()
@click.argument("name")
@roles_option
@environments_option(required=True)
@click.option("--expires", "life", metavar="TIME", required=True, callback=_life, help="Life, such as 90d or 12h.")
@pki_option
@click.option("--out", metavar="FILE", help="New file for the token, readable by you alone.  [default: stdout]")
@pass_output
@click.pass_context
def create(
    ctx: click.Context,
    output: Output,
    name: str,
    roles: Sequence[str],
    patterns: Sequence[str],
    life: timedelta,
    pki: str | None,
    out: str | None,
) -> None:
    """Create a token.

    Records an operator with the roles, and prints the token, which is stored nowhere else. An environment may be a
    name, with the organization and project of devopsellence.yml. Uses the cluster's CA with the certificate of root if
    they are on this machine; otherwise a gateway signs, for 90 days at most, for an admin of all environments. Running
    the command again creates a further token with the same name and roles; the first one stays valid until its end.

    \b
    Example:
      devopsellence operator token create ci --env production --role deployer --expires 90d --out ci.token
      devopsellence operator token create ci --env acme/shop/production --role deployer --expires 12h | gh secret set \\
        DEVOPSELLENCE_TOKEN
    """
    from devopsellence.cli.cluster import issue
    from devopsellence.cli.cluster.signer import check_life
    from devopsellence.cli.operators import access, tokens

    request = issue.operator_request(name, fixed_term=True)
    environments = [_path(ctx, pattern) for pattern in patterns]
    order = tokens.TokenOrder(name, access.parse_grants(roles, environments), life)
    signing = choose(ctx, pki)
    check_life(signing.signer, life)
    with _new_file(out) as write:
        # First the access, which a gateway requires before it signs.
        context.run(ctx, lambda etcd: tokens.begin(etcd, order), settings=signing.settings)
        with after_grant(name):
            issued = signing.signer.issue(request, issue.now(), life=life)
            trusted = signing.signer.trusted
            created = context.run(
                ctx, lambda etcd: tokens.complete(etcd, order, issued, trusted), settings=signing.settings
            )
        write(created.token.text())
    if out is None and output.is_tty:
        output.warning("store the token now, for example as a secret of the CI: it is shown once, and gives access")
    steps = [
        NextAction(f"let it decrypt the secrets of {pattern}", f"devopsellence secret reencrypt --env {pattern}")
        for pattern in environments
        if created.token.identity and not pattern.endswith("*")
    ]
    where = f"Token {name} is in {out}, and valid until {created.expires_at:%Y-%m-%d %H:%M} UTC."
    output.result(
        "operator token create",
        where if out is not None else created.token.text(),
        next_actions=steps,
        operator=name,
        roles=access.roles_document(created.record),
        serial=created.serial,
        recipient=created.recipient or None,
        expires_at=created.expires_at.isoformat().replace("+00:00", "Z"),
        **({"file": out} if out is not None else {"token": created.token.text()}),
    )


@token.command("list")
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the tokens with their roles, end and serial number.

    A name with several tokens shows each. Needs the role admin.

    \b
    Example:
      devopsellence operator token list
    """
    from datetime import UTC, datetime

    from devopsellence.access.denied import denial_of
    from devopsellence.cli.operators import access, tokens
    from devopsellence.cli.util.text import columns, iso
    from devopsellence.store.identities import user_of_operator

    known = context.run(ctx, tokens.known_tokens)
    now = datetime.now(UTC).timestamp()
    rows, documents = [], []
    for name, record in known.operators.items():
        for certificate in tokens.finished(record.tokens):
            denied = bool(denial_of(known.denied, user_of_operator(name), certificate.serial))
            state = "denied" if denied else "expired" if certificate.expires_at.seconds <= now else "valid"
            ends = f"{certificate.expires_at.ToDatetime():%Y-%m-%d %H:%M}"
            rows.append([name, access.roles_text(record), ends, certificate.serial, state])
            documents.append(
                {
                    "operator": name,
                    "roles": access.roles_document(record),
                    "serial": certificate.serial,
                    "created_at": iso(certificate.created_at),
                    "created_by": certificate.created_by,
                    "expires_at": iso(certificate.expires_at),
                    "state": state,
                }
            )
    text = columns(("TOKEN", "ROLES", "EXPIRES (UTC)", "SERIAL", "STATE"), rows) if rows else "There is no token."
    output.result("operator token list", text, tokens=documents)


@token.command()
@destroys("denies the certificates of the token for good, and deletes its access", unless="dry_run")
@click.argument("name", shell_complete=complete_operators)
@dry_run_option
@pass_output
@click.pass_context
def revoke(ctx: click.Context, output: Output, name: str, dry_run: bool) -> None:
    """Revoke all tokens of a name: certificates, roles and age recipients.

    Gateways and agents refuse them from then on. The name can be used for a new token. A single token of several is
    revoked with operator deny and its serial number. Prints the secrets that the token could decrypt. Needs the role
    admin in all environments.

    \b
    Example:
      devopsellence operator token revoke ci --dry-run
      devopsellence operator token revoke ci -y
    """
    from devopsellence.cli.operators import removal, tokens
    from devopsellence.store.keys import check_name

    check_name("operator", name)
    planned = context.run(ctx, lambda etcd: tokens.plan_revocation(etcd, name))
    if not dry_run:
        confirm(ctx, f"This denies the certificates of the token {name} for good, and deletes its access.")
        context.run(ctx, lambda etcd: removal.revoke_tokens(etcd, planned))
    lines = [f"Token {name} would be revoked." if dry_run else f"Revoked token {name}."]
    lines += [exposure(planned.exposed, whose="token")] if planned.exposed else []
    output.result(
        "operator token revoke",
        "\n".join(lines),
        operator=name,
        dry_run=dry_run,
        revoked=not dry_run,
        serials=[certificate.serial for certificate in tokens.finished(planned.tokens)],
        **exposure_document(planned.exposed),
    )


def _path(ctx: click.Context, pattern: str) -> str:
    """Return a pattern of environments; a name becomes a path with the names in devopsellence.yml."""
    if "/" in pattern or pattern == ANY:
        return pattern
    from devopsellence import config
    from devopsellence.store.keys import EnvironmentRef

    project = config.identity(context.require_config())
    return str(EnvironmentRef(project.organization, project.project, pattern))


@contextmanager
def _new_file(path: str | None) -> Iterator[Callable[[str], None]]:
    """Create a file readable by this user alone; yield a function that writes it. Removed again after an error.

    Raises:
        CliError: ``token_file_exists``, ``token_file_unwritable`` (exit code 2).
    """
    if path is None:
        yield lambda _text: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise CliError("token_file_exists", f"{path} exists already; choose another file", exit_code=2) from error
    except OSError as error:
        raise CliError("token_file_unwritable", f"cannot write {path}: {error.strerror}", exit_code=2) from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            yield lambda text: print(text, file=file)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
