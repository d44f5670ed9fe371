"""The command ``devopsellence-controller``: options, logging, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from pathlib import Path

import click
import structlog

from devopsellence import log
from devopsellence.controller.controller import CertificateOptions, run
from devopsellence.store import settings as etcd_settings
from devopsellence.store.settings import Settings, SettingsError

_PEM = click.Path(path_type=Path, dir_okay=False)
_ACME_CA_CERT = "DEVOPSELLENCE_ACME_CA_CERT"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="devopsellence")
@click.option("--etcd-endpoints", metavar="ADDRESS:PORT[,…]", help="Client addresses of etcd.")
@click.option("--etcd-ca-cert", type=_PEM, help="PEM file of the CA of etcd's certificates.")
@click.option("--etcd-cert", type=_PEM, help="PEM file of the client certificate.")
@click.option("--etcd-key", type=_PEM, help="PEM file of the key of the client certificate.")
@click.option("--prefix", metavar="/PATH/", help="Prefix of all keys in etcd.")
@click.option(
    "--acme-ca-cert",
    type=_PEM,
    envvar=_ACME_CA_CERT,
    help="PEM file of a CA to trust for the ACME server itself.",
)
@click.option("--identity", metavar="NAME", help="Name in the election.  [default: <hostname>/<pid>]")
@click.option("--debug", is_flag=True, help="Log debug messages.")
def main(
    etcd_endpoints: str | None,
    etcd_ca_cert: Path | None,
    etcd_cert: Path | None,
    etcd_key: Path | None,
    prefix: str | None,
    acme_ca_cert: Path | None,
    identity: str | None,
    debug: bool,
) -> None:
    """Run the controller: turn releases into assignments and watch rollouts.

    Any number of controllers can run: a single leader, the rest on standby. Options take precedence over environment
    variables (DEVOPSELLENCE_ETCD_ENDPOINTS, DEVOPSELLENCE_ETCD_CA_CERT, DEVOPSELLENCE_ETCD_CERT,
    DEVOPSELLENCE_ETCD_KEY, DEVOPSELLENCE_PREFIX, DEVOPSELLENCE_ACME_CA_CERT). On SIGTERM or SIGINT the controller
    stops, and a standby takes over at once.

    Example: devopsellence-controller --etcd-endpoints 127.0.0.1:2379
    """
    options = {
        etcd_settings.ENDPOINTS: etcd_endpoints,
        etcd_settings.CA_CERT: etcd_ca_cert,
        etcd_settings.CERT: etcd_cert,
        etcd_settings.KEY: etcd_key,
        etcd_settings.PREFIX: prefix,
    }
    settings = _settings({**os.environ, **{name: str(value) for name, value in options.items() if value is not None}})
    certificates = CertificateOptions(_readable(acme_ca_cert))
    log.configure("controller", debug=debug)
    asyncio.run(_serve(settings, identity or f"{socket.gethostname()}/{os.getpid()}", certificates))


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


def _settings(environ: dict[str, str]) -> Settings:
    try:
        settings = Settings.from_environ(environ)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    if settings is None:
        raise click.UsageError(
            f"no etcd configured: use --etcd-endpoints 127.0.0.1:2379 or set {etcd_settings.ENDPOINTS}"
        )
    return settings


async def _serve(settings: Settings, identity: str, certificates: CertificateOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    structlog.get_logger().info(
        "started", identity=identity, endpoints=",".join(settings.endpoints), prefix=settings.prefix
    )
    await run(settings, identity, stop, certificates)
    structlog.get_logger().info("stopped")


if __name__ == "__main__":
    main(prog_name="devopsellence-controller")
