"""``dev``: a local cluster on this machine, in the background."""

from __future__ import annotations

import shlex
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from devopsellence.cli import errors
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.dev.down import DownResult
    from devopsellence.cli.dev.up import RunningCluster


@click.group(cls=CommandGroup, no_args_is_help=True)
def dev() -> None:
    """Run a local cluster on this machine.

    The cluster consists of etcd, a controller and an agent. They run in the background, under your user.

    \b
    Example:
      devopsellence dev up
      devopsellence deploy
      devopsellence dev down
    """


@dev.command()
@click.option("--node-name", metavar="NAME", help="Name of the node.  [default: local]")
@click.option("--labels", metavar="LABEL,…", help="Labels of the node.  [default: web,worker]")
@click.option(
    "--etcd-port", type=click.IntRange(1, 65535), metavar="PORT", help="Port of etcd.  [default: a free port]"
)
@click.option(
    "--http-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="HTTP port of the ingress.  [default: 8080 or the next free port]",
)
@click.option(
    "--https-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="HTTPS port of the ingress.  [default: 8443 or the next free port]",
)
@click.option("--docker-host", metavar="URL", help="Docker Engine.  [default: DOCKER_HOST or the usual socket]")
@click.option("--foreground", is_flag=True, help="Run in the foreground; Ctrl-C stops the cluster.")
@pass_output
@click.pass_context
def up(
    ctx: click.Context,
    output: Output,
    node_name: str | None,
    labels: str | None,
    etcd_port: int | None,
    http_port: int | None,
    https_port: int | None,
    docker_host: str | None,
    foreground: bool,
) -> None:
    """Start the local cluster and wait until it is ready.

    Starts only what is not running yet. Options are remembered for the next start. Data survives crashes and reboots.

    \b
    Example:
      devopsellence dev up
      devopsellence dev up --labels web --etcd-port 2379
      devopsellence dev up --http-port 80 --https-port 443
    """
    from devopsellence.cli.dev.up import UpOptions, bring_up
    from devopsellence.cli.nodes.registry import parse_labels

    node_labels = None if labels is None else tuple(parse_labels(labels))
    options = UpOptions(node_name, node_labels, etcd_port, docker_host, http_port, https_port)
    _warn_of_context(ctx, output)
    try:
        running = bring_up(options, lambda message, **data: output.progress("dev up", message, **data))
    except KeyboardInterrupt as error:
        raise errors.interrupted(error, "what has started keeps running; continue with devopsellence dev up") from error
    if foreground and running.already:
        message = "the local cluster is already running in the background"
        raise CliError("already_runs", message, next_actions=[NextAction("stop it first", "devopsellence dev down")])
    if running.problem:
        output.warning(f"the agent has a problem: {running.problem}")
    deploy = NextAction("deploy the app in this folder", "devopsellence deploy")
    output.result("dev up", _up_text(running), next_actions=[deploy], **_up_document(running))
    if foreground:
        _stay(running)


def _warn_of_context(ctx: click.Context, output: Output) -> None:
    """Warn of a context in use: the next deploy would not be one to the local cluster."""
    from devopsellence.cli.choice import Source, choose

    with suppress(CliError):
        choice = choose(ctx)
        if choice.source is Source.CONTEXT:
            output.warning(f"commands use {choice}; for the local cluster: devopsellence context use --none")


@dev.command()
@destroys("--purge deletes the volumes of the apps and the data of the cluster", when="purge")
@click.option("--purge", is_flag=True, help="Also remove containers, networks, volumes and all data.")
@pass_output
@click.pass_context
def down(ctx: click.Context, output: Output, purge: bool) -> None:
    """Stop the local cluster and the containers of its apps.

    Data stays, and devopsellence dev up starts the apps again. --purge deletes everything.

    \b
    Example:
      devopsellence dev down
      devopsellence dev down --purge
    """
    from devopsellence.cli.dev.down import bring_down

    if purge:
        confirm(ctx, "This permanently deletes the volumes of the apps and the data of the cluster.")
    try:
        done = bring_down(lambda message, **data: output.progress("dev down", message, **data), purge=purge)
    except KeyboardInterrupt as error:
        again = f"devopsellence dev down{' --purge' if purge else ''}"
        raise errors.interrupted(error, f"not everything has ended; continue with {again}") from error
    start = [NextAction("start again", "devopsellence dev up")] if done.anything and not purge else []
    output.result("dev down", _down_text(done, purge=purge), next_actions=start, **_down_document(done))


@dev.command()
@pass_output
def status(output: Output) -> None:
    """Show the processes of the local cluster and their health.

    \b
    Example:
      devopsellence dev status
      devopsellence dev status -o json
    """
    from devopsellence.cli.dev.status import read_status, status_text

    cluster_status = read_status()
    if cluster_status is None:
        text = "no local cluster on this machine; start one with: devopsellence dev up"
        start = NextAction("start a local cluster", "devopsellence dev up")
        output.result("dev status", text, running=False, healthy=False, processes=[], next_actions=[start])
        return
    output.result("dev status", status_text(cluster_status), **cluster_status.document())


@dev.command()
@pass_output
def env(output: Output) -> None:
    """Print shell variables for etcdctl, and the ingress ports.

    \b
    Example:
      eval "$(devopsellence dev env)"
      etcdctl get --prefix /devopsellence/v1/
      curl -H 'Host: shop.localhost' http://127.0.0.1:$DEVOPSELLENCE_HTTP_PORT/
    """
    variables = {**etcdctl_variables(), **ingress_variables()}
    text = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
    output.result("dev env", text, variables=variables)


def etcdctl_variables() -> dict[str, str]:
    """Return the environment variables for etcdctl with full access to the local cluster.

    Raises:
        CliError: ``dev_not_set_up``.
    """
    from devopsellence.cli.dev import state

    settings = state.settings()
    if settings is None:
        from devopsellence.cli.dev.problems import no_cluster

        raise no_cluster()
    return {
        "ETCDCTL_API": "3",  # 3.3 and older would speak version 2
        "ETCDCTL_ENDPOINTS": ",".join(f"https://{endpoint}" for endpoint in settings.endpoints),
        "ETCDCTL_CACERT": str(settings.ca_cert),
        "ETCDCTL_CERT": str(settings.cert),
        "ETCDCTL_KEY": str(settings.key),
    }


def ingress_variables() -> dict[str, str]:
    """Return the variables for the ingress ports; empty for a cluster started by a version without ingress."""
    from devopsellence.cli.dev import state

    saved = state.load()
    if saved is None or not saved.http_port:
        return {}
    return {
        "DEVOPSELLENCE_HTTP_PORT": str(saved.http_port),
        "DEVOPSELLENCE_HTTPS_PORT": str(saved.https_port),
    }


def _stay(running: RunningCluster) -> None:
    """Wait for the end of the supervisor; SIGINT, SIGTERM and SIGHUP stop the supervisor."""
    supervisor = running.snapshot.supervisor

    def end(*_: object) -> None:
        supervisor.send(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    while not supervisor.wait_gone(3600):
        pass


def _up_text(running: RunningCluster) -> str:
    state = running.state
    verb = "is already running" if running.already else "is running"
    return "\n".join(
        (
            f"The local cluster {verb}: node {state.node_name} ({', '.join(running.labels)}), "
            f"etcd at 127.0.0.1:{state.client_port}, logs in {running.layout.logs}",
            f"Ingress: http://127.0.0.1:{state.http_port} and https://127.0.0.1:{state.https_port}",
            "Next: devopsellence deploy",
        )
    )


def _up_document(running: RunningCluster) -> dict[str, Any]:
    return {
        "already": running.already,
        "node": {"name": running.state.node_name, "uid": running.state.node_uid, "labels": list(running.labels)},
        "etcd": {"endpoint": f"127.0.0.1:{running.state.client_port}", "client_port": running.state.client_port},
        "gateway": {"endpoint": f"127.0.0.1:{running.state.gateway_port}", "port": running.state.gateway_port},
        "agent": {"endpoint": f"127.0.0.1:{running.state.agent_port}", "port": running.state.agent_port},
        "ingress": {"http_port": running.state.http_port, "https_port": running.state.https_port},
        "docker": {"host": running.state.docker_host, "problem": running.problem},
        "folder": str(running.layout.root),
        "logs": str(running.layout.logs),
        "processes": {process.name: process.pid for process in running.snapshot.processes},
    }


def _down_text(done: DownResult, *, purge: bool) -> str:
    if not done.anything:
        return "Nothing to do: no local cluster is running on this machine."
    from devopsellence.cli.util.text import plural

    if not purge:
        containers = plural(len(done.stopped), "container")
        return f"Stopped the local cluster and {containers}; data is kept. Start again: devopsellence dev up"
    counts = ((len(done.removed), "container"), (done.networks, "network"), (len(done.volumes), "volume"))
    removed = ", ".join(plural(count, noun) for count, noun in counts)
    return f"Removed the local cluster: {removed} and the folder {done.folder}."


def _down_document(done: DownResult) -> dict[str, Any]:
    return {
        "processes": done.processes,
        "containers_stopped": done.stopped,
        "containers_removed": done.removed,
        "networks_removed": done.networks,
        "volumes_removed": done.volumes,
        "folder_removed": done.folder or None,
    }
