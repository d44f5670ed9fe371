"""The command ``devopsellence-controller``: options, logging."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

import click
import structlog

from devopsellence import log
from devopsellence.controller.controller import CertificateOptions, run
from devopsellence.program import PEM_FILE, etcd_options, read_settings, stop_event
from devopsellence.store.settings import Settings

_ACME_CA_CERT = "DEVOPSELLENCE_ACME_CA_CERT"


@click.command()
@click.option(
    "--acme-ca-cert",
    type=PEM_FILE,
    envvar=_ACME_CA_CERT,
    help="PEM file of a CA to trust for the ACME server itself.",
)
@click.option("--identity", metavar="NAME", help="Name in the election.  [default: <hostname>/<pid>]")
@etcd_options
def main(acme_ca_cert: Path | None, identity: str | None, debug: bool, **options: object) -> None:
    """Run the controller: turn releases into assignments and watch rollouts.

    Any number of controllers can run: a single leader, the rest on standby. Options take precedence over environment
    variables (DEVOPSELLENCE_ETCD_ENDPOINTS, DEVOPSELLENCE_ETCD_CA_CERT, DEVOPSELLENCE_ETCD_CERT,
    DEVOPSELLENCE_ETCD_KEY, DEVOPSELLENCE_PREFIX, DEVOPSELLENCE_ACME_CA_CERT). On SIGTERM or SIGINT the controller
    stops, and a standby takes over at once.

    Example: devopsellence-controller --etcd-endpoints 127.0.0.1:2379
    """
    settings = read_settings(options)
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


async def _serve(settings: Settings, identity: str, certificates: CertificateOptions) -> None:
    structlog.get_logger().info(
        "started", identity=identity, endpoints=",".join(settings.endpoints), prefix=settings.prefix
    )
    await run(settings, identity, stop_event(), certificates)
    structlog.get_logger().info("stopped")


if __name__ == "__main__":
    main(prog_name="devopsellence-controller")
