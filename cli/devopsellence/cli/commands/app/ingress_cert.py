"""``ingress cert``: install, list and remove TLS certificates of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devopsellence import input_file
from devopsellence.access.roles import Action
from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_certificate_hosts, complete_hosts
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.workload_pb2 import Ingress
    from devopsellence.cli.ingress.certificates import InstalledCertificates
    from devopsellence.cli.ingress.pem import InstallableCertificate
    from devopsellence.cli.ingress.show import CertificateEntry
    from devopsellence.cli.store.snapshot import UnreadableKey
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
# A chain of ten large certificates is far smaller.
_MOST_BYTES = 256 * 1024


@click.group(cls=CommandGroup)
def cert() -> None:
    """Install, list and remove TLS certificates.

    In TLS mode auto, the controller obtains and renews certificates itself.

    \b
    Example:
      devopsellence ingress cert install --cert-file fullchain.pem --key-file key.pem
      devopsellence ingress cert list
    """


@cert.command()
@click.option("--cert-file", required=True, type=_FILE, help="Certificate chain of the host (PEM).")
@click.option("--key-file", required=True, type=_FILE, help="Private key without passphrase (PEM).")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    shell_complete=complete_hosts,
    help="Host to install for (repeatable).  [default: all covered hosts]",
)
@environment_option
@pass_output
@click.pass_context
def install(ctx: click.Context, output: Output, cert_file: Path, key_file: Path, hosts: Sequence[str]) -> None:
    """Install or replace the certificate of hosts.

    The private key is encrypted on this machine for the attached nodes and the operators; nobody else can decrypt it.
    The nodes serve the certificate at once, without dropping connections.

    \b
    Example:
      devopsellence ingress cert install --cert-file fullchain.pem --key-file key.pem
      devopsellence ingress cert install --cert-file wild.pem --key-file wild.key --host app.example.com
    """
    from devopsellence.cli.ingress import certificates, pem

    certificate = pem.read_files(_content(cert_file), _content(key_file), datetime.now(UTC))

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[str], Ingress | None, InstalledCertificates]:
        ref = await context.environment(ctx, etcd, Action.WRITE_SECRETS)
        ingress = await _ingress(ctx, etcd, ref)
        chosen = _chosen(ref, certificate, hosts, list(ingress.hosts) if ingress is not None else [])
        return ref, chosen, ingress, await certificates.install(etcd, ref, certificate, chosen)

    ref, chosen, ingress, done = context.run(ctx, work)
    for warning in [*certificate.warnings, *_warnings(ref, chosen, ingress, done)]:
        output.warning(warning)
    day = certificate.not_after.strftime("%Y-%m-%d")
    text = f"No change: {ref} already has this certificate."
    if done.written:
        names = ", ".join(done.written)
        text = f"Installed the certificate from {certificate.issuer} for {names}; it expires on {day}."
    output.result(
        "ingress cert install",
        text,
        environment=str(ref),
        hosts=chosen,
        installed=list(done.written),
        issuer=certificate.issuer,
        serial=certificate.serial,
        not_after=certificate.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
        nodes_without_key=list(done.keyless),
    )


@cert.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the certificates of an environment.

    Shows issuer, expiry, the nodes and operators able to decrypt the private key, and the next renewal step.

    \b
    Example:
      devopsellence ingress cert list
      devopsellence ingress cert list -o json
    """
    from devopsellence.cli.ingress import show

    async def work(etcd: Etcd) -> tuple[EnvironmentRef, list[CertificateEntry], list[UnreadableKey]]:
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
@destroys("deletes the certificate and the private key of the host")
@click.argument("host", shell_complete=complete_certificate_hosts)
@environment_option
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, host: str) -> None:
    """Remove the certificate and private key of a host.

    HOST is served over plain HTTP until it has a new certificate. In TLS mode auto, the controller obtains a new one at
    once.

    \b
    Example:
      devopsellence ingress cert remove app.example.com
    """
    from devopsellence.cli.ingress import certificates
    from devopsellence.names import check_host

    host = check_host(host.lower())

    async def environment(etcd: Etcd) -> EnvironmentRef:
        return await context.environment(ctx, etcd, Action.WRITE_SECRETS)

    ref = context.run(ctx, environment)
    confirm(ctx, f"This permanently deletes the certificate and private key of {host} in {ref}.")
    context.run(ctx, lambda etcd: certificates.remove(etcd, ref, host))
    text = f"Removed the certificate of {host} from {ref}."
    output.result("ingress cert remove", text, environment=str(ref), host=host)


def _content(path: Path) -> bytes:
    try:
        return input_file.read(path, _MOST_BYTES)
    except OSError as error:
        raise CliError("invalid_certificate", f"{path} cannot be read: {error.strerror}", exit_code=2) from error


async def _ingress(ctx: click.Context, etcd: Etcd, ref: EnvironmentRef) -> Ingress | None:
    """Return the ingress of the environment: from the running release, else from the configuration in this folder."""
    from devopsellence import config
    from devopsellence.cli.store.releases import target_release

    release = await target_release(etcd, ref)
    if release is not None and release.HasField("ingress"):
        return release.ingress
    path = context.config_path()
    if path is None:
        return None
    loaded = config.load(path)
    if (loaded.organization, loaded.project) != (ref.organization, ref.project):
        return None
    return loaded.resolve(ref.environment).ingress


def _chosen(
    ref: EnvironmentRef, certificate: InstallableCertificate, requested: Sequence[str], known: Sequence[str]
) -> list[str]:
    """Return the hosts to install the certificate for.

    Raises:
        CliError: ``invalid_certificate`` (exit code 2): a requested host, or every known host, is not covered.
    """
    from devopsellence.cli.ingress.pem import invalid_certificate
    from devopsellence.names import check_host

    covered = ", ".join([*certificate.names, *certificate.addresses])
    if requested:
        hosts = list(dict.fromkeys(check_host(host.lower()) for host in requested))
        if others := [host for host in hosts if not certificate.covers(host)]:
            raise invalid_certificate(f"the certificate is not for {', '.join(others)}: it covers {covered}")
        return hosts
    hosts = [host for host in known if certificate.covers(host)]
    if not hosts:
        have = f"the hosts of {ref} are {', '.join(known)}" if known else f"{ref} has no ingress yet"
        action = NextAction(
            "name the host", "devopsellence ingress cert install --host HOST --cert-file FILE --key-file FILE"
        )
        message = f"the certificate covers {covered}, and {have}; nothing was written"
        raise CliError("invalid_certificate", message, exit_code=2, next_actions=[action])
    return hosts


def _warnings(
    ref: EnvironmentRef, chosen: Sequence[str], ingress: Ingress | None, done: InstalledCertificates
) -> list[str]:
    """Return the reasons why the certificate is not served, or will be replaced."""
    from devopsellence.config.schema import TLS_MODES

    warnings = []
    if done.keyless:
        names = ", ".join(done.keyless)
        warnings.append(
            f"the public key of {names} is not known yet; once the agent is running, grant access with: "
            f"devopsellence secret reencrypt --env {ref}"
        )
    if ingress is None:
        return [*warnings, f"{ref} has no ingress yet: run devopsellence ingress set, then devopsellence deploy"]
    if others := [host for host in chosen if host not in ingress.hosts]:
        warnings.append(f"not served: the ingress of {ref} does not have the host {', '.join(others)}")
    mode = next((word for word, value in TLS_MODES.items() if value == ingress.tls_mode), "")
    if mode == "off":
        warnings.append("not served: ingress.tls.mode is off; run devopsellence ingress set --tls manual, then deploy")
    elif mode != "manual":
        keep = "to keep installed certificates, run devopsellence ingress set --tls manual"
        warnings.append(
            f"ingress.tls.mode is {mode}: the controller replaces this certificate before it expires; {keep}"
        )
    return warnings
