"""``ingress cert``: certificates that somebody brings, and those that there are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.workload_pb2 import Ingress
    from devopsellence.cli.ingress.certificates import Stored
    from devopsellence.cli.ingress.pem import Installable
    from devopsellence.cli.ingress.show import Entry
    from devopsellence.cli.store.snapshot import Problem
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
# A chain of ten large certificates is far smaller.
_MOST_BYTES = 256 * 1024


@click.group()
def cert() -> None:
    """Install, list and remove certificates. With TLS mode auto the controller obtains and renews them by itself.

    \b
    Example:
      devopsellence ingress cert install --cert-file fullchain.pem --key-file key.pem
      devopsellence ingress cert list
    """


@cert.command()
@click.option("--cert-file", required=True, type=_FILE, help="PEM: the host's certificate, then its issuers'.")
@click.option("--key-file", required=True, type=_FILE, help="PEM: its private key, without a passphrase.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="For these.  [default: all that it covers]")
@environment_option
@pass_output
@click.pass_context
def install(ctx: click.Context, output: Output, cert_file: Path, key_file: Path, hosts: Sequence[str]) -> None:
    """Install a certificate for hosts of an environment, or put it in the place of the one before.

    The key is sealed here for the attached nodes and for operators; nobody else can open it. The nodes serve it at
    once, without dropping a connection.

    \b
    Example:
      devopsellence ingress cert install --cert-file fullchain.pem --key-file key.pem
      devopsellence ingress cert install --cert-file wild.pem --key-file wild.key --host app.example.com
    """
    from devopsellence.cli.ingress import certificates, pem

    found = pem.read(_content(cert_file), _content(key_file), datetime.now(UTC))

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[str], Ingress | None, Stored]:
        ref = await context.environment(ctx, etcd)
        ingress = await _ingress(ctx, etcd, ref)
        chosen = _chosen(ref, found, hosts, list(ingress.hosts) if ingress is not None else [])
        return ref, chosen, ingress, await certificates.install(etcd, ref, found, chosen)

    ref, chosen, ingress, done = context.run(ctx, work)
    for sentence in [*found.warnings, *_doubts(ref, chosen, ingress, done)]:
        output.warning(sentence)
    day = found.not_after.strftime("%Y-%m-%d")
    text = f"{ref} has this certificate already; nothing was written."
    if done.written:
        text = f"The certificate by {found.issuer} is installed for {', '.join(done.written)}; it ends on {day}."
    output.result(
        "ingress cert install",
        text,
        environment=str(ref),
        hosts=chosen,
        installed=list(done.written),
        issuer=found.issuer,
        serial=found.serial,
        not_after=found.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
        nodes_without_key=list(done.keyless),
    )


@cert.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the certificates of an environment: issuer, end, who can open the key, and what happens next.

    \b
    Example:
      devopsellence ingress cert list
      devopsellence ingress cert list -o json
    """
    from devopsellence.cli.ingress import show

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[Entry], list[Problem]]:
        ref = await context.environment(ctx, etcd)
        return ref, *await show.certificates(etcd, ref)

    ref, entries, problems = context.run(ctx, work)
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
    output.result(
        "ingress cert list",
        show.table(entries, datetime.now(UTC)) if entries else f"{ref} has no certificates.",
        environment=str(ref),
        certificates=[show.document(entry) for entry in entries],
        problems=show.problems(problems),
    )


@cert.command()
@click.argument("host")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@environment_option
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, host: str, yes: bool) -> None:
    """Take the certificate of HOST away, with its key. It is served by plain HTTP until it has another one.

    With TLS mode auto the controller obtains another one at once.

    \b
    Example:
      devopsellence ingress cert remove app.example.com
    """
    from devopsellence.cli.ingress import certificates
    from devopsellence.names import check_host

    host = check_host(host.lower())

    async def which(etcd: Etcd) -> EnvironmentRef:
        return await context.environment(ctx, etcd)

    ref = context.run(ctx, which)
    if not yes and output.is_tty and sys.stdin.isatty():
        click.confirm(f"This deletes the certificate of {host} in {ref} for good. Go on?", abort=True)
    context.run(ctx, lambda etcd: certificates.remove(etcd, ref, host))
    output.result(
        "ingress cert remove", f"The certificate of {host} is removed from {ref}.", environment=str(ref), host=host
    )


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        message = f"{path} is larger than {_MOST_BYTES // 1024} KiB, so it is no certificate and no key"
        raise CliError("invalid_certificate", message, exit_code=2)
    return content


async def _ingress(ctx: click.Context, etcd: Etcd, ref: EnvironmentRef) -> Ingress | None:
    """The environment's ingress: as released, else as the configuration here has it."""
    from devopsellence import config
    from devopsellence.cli.store.releases import newest

    release = await newest(etcd, ref)
    if release is not None and release.HasField("ingress"):
        return release.ingress
    path = context.config_path()
    if path is None:
        return None
    loaded = config.load(path)
    if (loaded.organization, loaded.project) != (ref.organization, ref.project):
        return None
    return loaded.resolve(ref.environment).ingress


def _chosen(ref: EnvironmentRef, found: Installable, said: Sequence[str], known: Sequence[str]) -> list[str]:
    """The hosts that the certificate is for.

    Raises:
        CliError: ``invalid_certificate`` (exit code 2): it does not cover one that was said, or none that is known.
    """
    from devopsellence.cli.ingress.pem import unfit
    from devopsellence.names import check_host

    covers = ", ".join([*found.names, *found.addresses])
    if said:
        hosts = list(dict.fromkeys(check_host(host.lower()) for host in said))
        if others := [host for host in hosts if not found.covers(host)]:
            raise unfit(f"the certificate is not for {', '.join(others)}: it covers {covers}")
        return hosts
    hosts = [host for host in known if found.covers(host)]
    if not hosts:
        have = f"the hosts of {ref} are {', '.join(known)}" if known else f"{ref} has no ingress yet"
        mend = NextAction(
            "or say for which", "devopsellence ingress cert install --host HOST --cert-file F --key-file F"
        )
        message = f"the certificate covers {covers}, and {have}; nothing was written"
        raise CliError("invalid_certificate", message, exit_code=2, next_actions=[mend])
    return hosts


def _doubts(ref: EnvironmentRef, chosen: Sequence[str], ingress: Ingress | None, done: Stored) -> list[str]:
    """What keeps the certificate from being served, or from staying."""
    from devopsellence.config.resolve import TLS_MODES

    found = []
    if done.keyless:
        names = ", ".join(done.keyless)
        found.append(f"no key is known of {names}: devopsellence secret reencrypt --env {ref} when its agent is there")
    if ingress is None:
        return [*found, f"{ref} has no ingress yet: devopsellence ingress set, then devopsellence deploy"]
    if others := [host for host in chosen if host not in ingress.hosts]:
        found.append(f"{', '.join(others)}: no host of the ingress of {ref} yet, so it is not served")
    mode = next((word for word, value in TLS_MODES.items() if value == ingress.tls_mode), "")
    if mode == "off":
        found.append(
            "ingress.tls.mode is off, so it is not served: devopsellence ingress set --tls manual, then deploy"
        )
    elif mode != "manual":
        keep = "devopsellence ingress set --tls manual keeps to those that are installed"
        found.append(f"ingress.tls.mode is {mode}: shortly before its end one that is obtained takes its place; {keep}")
    return found
