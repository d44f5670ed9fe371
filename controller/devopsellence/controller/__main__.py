"""The command ``devopsellence-controller``: options, logging."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import structlog

from devopsellence import log
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.controller.controller import CertificateOptions, run
from devopsellence.controller.gateway.audit.trail import DEFAULT_DAYS, DEFAULT_MIB, AuditOptions
from devopsellence.controller.gateway.server import GatewayOptions
from devopsellence.gateways import InvalidGateways, gateway_address
from devopsellence.program import PEM_FILE, etcd_options, read_settings, stop_event
from devopsellence.server_certificate import CertificateFiles, ListenProblem
from devopsellence.store.settings import Settings

if TYPE_CHECKING:
    from devopsellence.controller.access.own_certificate import OwnCertificate

#: Objects that are created before the next look for unused cycles; 700 by default.
_GARBAGE = 10_000
_ACME_CA_CERT = "DEVOPSELLENCE_ACME_CA_CERT"
_GATEWAY_LISTEN = "DEVOPSELLENCE_GATEWAY_LISTEN"
_GATEWAY_ADVERTISE = "DEVOPSELLENCE_GATEWAY_ADVERTISE"
_GATEWAY_CERT = "DEVOPSELLENCE_GATEWAY_CERT"
_GATEWAY_KEY = "DEVOPSELLENCE_GATEWAY_KEY"
_GATEWAY_CA_CERT = "DEVOPSELLENCE_GATEWAY_CA_CERT"
_ISSUING_CERT = "DEVOPSELLENCE_ISSUING_CERT"
_ISSUING_KEY = "DEVOPSELLENCE_ISSUING_KEY"
_AUDIT_DIR = "DEVOPSELLENCE_AUDIT_DIR"


def _advertised(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    try:
        return gateway_address(value) if value else ""
    except InvalidGateways as error:
        raise click.BadParameter(f"{error} ({_GATEWAY_ADVERTISE})") from error


@click.command()
@click.option(
    "--acme-ca-cert",
    type=PEM_FILE,
    envvar=_ACME_CA_CERT,
    help="PEM file of a CA to trust for the ACME server itself.",
)
@click.option(
    "--gateway-listen",
    metavar="ADDRESS:PORT",
    envvar=_GATEWAY_LISTEN,
    help="Serve the gateway to etcd for agents and operators at this address.",
)
@click.option(
    "--gateway-advertise",
    metavar="ADDRESS:PORT",
    envvar=_GATEWAY_ADVERTISE,
    callback=_advertised,
    help="Address of the gateway as agents reach it.  [default: the one of --gateway-listen, or this machine's]",
)
@click.option(
    "--gateway-cert",
    type=PEM_FILE,
    envvar=_GATEWAY_CERT,
    help="PEM file of the gateway's certificate.  [default: --etcd-cert]",
)
@click.option(
    "--gateway-key",
    type=PEM_FILE,
    envvar=_GATEWAY_KEY,
    help="PEM file of the key of that certificate.  [default: --etcd-key]",
)
@click.option(
    "--gateway-ca-cert",
    type=PEM_FILE,
    envvar=_GATEWAY_CA_CERT,
    help="PEM file of the CA of the gateway's callers.  [default: --etcd-ca-cert]",
)
@click.option(
    "--issuing-cert",
    type=PEM_FILE,
    envvar=_ISSUING_CERT,
    help="PEM file of the authority that signs certificates of nodes and operators at the gateway.  "
    "[default: issuing.crt beside --etcd-cert, if it exists]",
)
@click.option(
    "--issuing-key",
    type=PEM_FILE,
    envvar=_ISSUING_KEY,
    help="PEM file of the key of that authority.  [default: issuing.key beside --etcd-cert]",
)
@click.option(
    "--audit-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=_AUDIT_DIR,
    help="Folder for the gateway's audit trail.  [default: only log lines]",
)
@click.option(
    "--audit-days",
    type=click.IntRange(1, 36_500),
    envvar="DEVOPSELLENCE_AUDIT_DAYS",
    default=DEFAULT_DAYS,
    show_default=True,
    metavar="DAYS",
    help="Keep the audit trail for this long.",
)
@click.option(
    "--audit-max-mib",
    type=click.IntRange(2, 1 << 20),
    envvar="DEVOPSELLENCE_AUDIT_MAX_MIB",
    default=DEFAULT_MIB,
    show_default=True,
    metavar="MIB",
    help="Largest size of the audit trail; beyond it the oldest entries go.",
)
@click.option("--identity", metavar="NAME", help="Name in the election.  [default: <hostname>/<pid>]")
@etcd_options
def main(acme_ca_cert: Path | None, identity: str | None, debug: bool, **options: Any) -> None:
    """Run the controller: turn releases into assignments and watch rollouts.

    Any number of controllers can run: a single leader, the rest on standby. Options take precedence over environment
    variables (DEVOPSELLENCE_ETCD_ENDPOINTS, DEVOPSELLENCE_ETCD_CA_CERT, DEVOPSELLENCE_ETCD_CERT,
    DEVOPSELLENCE_ETCD_KEY, DEVOPSELLENCE_PREFIX, DEVOPSELLENCE_ACME_CA_CERT, DEVOPSELLENCE_GATEWAY_LISTEN,
    DEVOPSELLENCE_GATEWAY_ADVERTISE, DEVOPSELLENCE_GATEWAY_CERT, DEVOPSELLENCE_GATEWAY_KEY,
    DEVOPSELLENCE_GATEWAY_CA_CERT, DEVOPSELLENCE_ISSUING_CERT, DEVOPSELLENCE_ISSUING_KEY, DEVOPSELLENCE_AUDIT_DIR,
    DEVOPSELLENCE_AUDIT_DAYS, DEVOPSELLENCE_AUDIT_MAX_MIB). On SIGTERM or SIGINT the controller stops, and a standby
    takes over at once.

    Example: devopsellence-controller --etcd-endpoints 127.0.0.1:2379
    """
    settings = read_settings(options)
    certificates = CertificateOptions(_readable(acme_ca_cert))
    gateway = _gateway(options, settings)
    log.configure("controller", debug=debug)
    # Each node is some hundred objects. To look for cycles among them ten times as often takes 9 % of a rollout.
    gc.set_threshold(_GARBAGE)
    asyncio.run(_serve(settings, identity or f"{socket.gethostname()}/{os.getpid()}", certificates, gateway))


def _gateway(options: Mapping[str, Any], settings: Settings) -> GatewayOptions | None:
    """Return the options of the gateway; None if there is to be none."""
    listen, ca_cert = options["gateway_listen"], options["gateway_ca_cert"] or settings.ca_cert
    cert, key = options["gateway_cert"], options["gateway_key"]
    if not listen:
        lone = ("gateway_advertise", "gateway_cert", "gateway_key", "gateway_ca_cert", "issuing_cert", "issuing_key")
        if given := [f"--{name.replace('_', '-')}" for name in lone if options[name]]:
            raise click.UsageError(f"{given[0]} needs an address: set --gateway-listen ({_GATEWAY_LISTEN})")
        return None
    host, separator, port = listen.rpartition(":")
    if not (separator and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.UsageError(f"--gateway-listen ({_GATEWAY_LISTEN}): {listen!r} is not address:port, as 0.0.0.0:2381")
    if bool(cert) != bool(key):
        raise click.UsageError(
            f"give both or none of --gateway-cert and --gateway-key ({_GATEWAY_CERT}, {_GATEWAY_KEY})"
        )
    cert, key = cert or settings.cert, key or settings.key
    if not (cert and key and ca_cert):
        raise click.UsageError("--gateway-listen needs certificates: set --gateway-* or --etcd-ca-cert, -cert and -key")
    return GatewayOptions(
        listen,
        CertificateFiles(ca_cert, cert, key),
        options["gateway_advertise"],
        issuing=_issuing(options, settings, ca_cert),
        audit=_audit(options),
    )


def _audit(options: Mapping[str, Any]) -> AuditOptions | None:
    """Return the options of the audit trail; None to keep none."""
    folder: Path | None = options["audit_dir"]
    return AuditOptions(folder, options["audit_days"], options["audit_max_mib"] << 20) if folder is not None else None


def _issuing(options: Mapping[str, Any], settings: Settings, trusted: Path) -> IssuingFiles | None:
    """Return the files of the authority that signs certificates; None for none."""
    cert, key = options["issuing_cert"], options["issuing_key"]
    if bool(cert) != bool(key):
        raise click.UsageError(
            f"give both or none of --issuing-cert and --issuing-key ({_ISSUING_CERT}, {_ISSUING_KEY})"
        )
    if cert is None:
        if settings.cert is None:
            return None
        beside = IssuingFiles(settings.cert.with_name("issuing.crt"), settings.cert.with_name("issuing.key"), trusted)
        if not beside.exist:
            return None
        cert, key = beside.certificate, beside.key
    files = IssuingFiles(cert, key, trusted)
    # Imported late, with what it needs: controllers without an authority have no use for it.
    from devopsellence.certificates.pem import CertificateError

    try:
        files.load()
    except CertificateError as error:
        raise click.UsageError(f"--issuing-cert ({_ISSUING_CERT}): {error}") from error
    return files


def _readable(ca_cert: Path | None) -> Path | None:
    """Return ``ca_cert`` after a check at startup: the first order would be late for an error."""
    if ca_cert is None:
        return None
    try:
        ssl.create_default_context(cafile=ca_cert)
    except ssl.SSLError as error:
        raise click.UsageError(f"--acme-ca-cert ({_ACME_CA_CERT}): {ca_cert}: contains no certificate") from error
    except OSError as error:
        raise click.UsageError(f"--acme-ca-cert ({_ACME_CA_CERT}): {ca_cert}: {error.strerror or error}") from error
    return ca_cert


async def _serve(
    settings: Settings, identity: str, certificates: CertificateOptions, gateway: GatewayOptions | None
) -> None:
    structlog.get_logger().info(
        "started", identity=identity, endpoints=",".join(settings.endpoints), prefix=settings.prefix
    )
    try:
        with _own_certificate(settings, gateway) as own:
            if own is not None:
                settings, gateway = _with_certificate(own.files, settings, gateway)
            await run(settings, identity, stop_event(), certificates, gateway, own)
    except ListenProblem as problem:
        raise click.UsageError(str(problem)) from problem
    structlog.get_logger().info("stopped")


@contextmanager
def _own_certificate(settings: Settings, gateway: GatewayOptions | None) -> Iterator[OwnCertificate | None]:
    """Make the controller's own certificate if it can sign one; else that in its files is used, and None returned."""
    with ExitStack() as stack:
        own = None
        if gateway is not None and gateway.issuing is not None and settings.cert is not None:
            from devopsellence.certificates.pem import CertificateError
            from devopsellence.controller.access.own_certificate import own_certificate

            try:
                own = stack.enter_context(own_certificate(settings.cert, gateway.issuing))
            except (CertificateError, OSError) as error:
                structlog.get_logger().warning("the controller does not renew its certificate", reason=str(error))
        yield own


def _with_certificate(
    files: CertificateFiles, settings: Settings, gateway: GatewayOptions | None
) -> tuple[Settings, GatewayOptions | None]:
    """Return the settings with the controller's own certificate: for etcd, and for a gateway with the same files."""
    if gateway is not None and gateway.files.certificate == settings.cert:
        served = replace(gateway.files, certificate=files.certificate, key=files.key)
        gateway = replace(gateway, files=served)
    return replace(settings, cert=files.certificate, key=files.key), gateway


if __name__ == "__main__":
    main(prog_name="devopsellence-controller")
