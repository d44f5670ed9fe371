"""``dev up``: start the local cluster. Idempotent: every step may have been done before."""

from __future__ import annotations

import datetime
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.cli import signals
from devopsellence.cli.dev import certificates, cluster, problems, state, supervisor_control
from devopsellence.cli.dev.docker_api import DockerHttpApi, DockerHttpError, default_host
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.ports import MachinePorts, Ports
from devopsellence.cli.dev.spec import ProcessSpec, SupervisorSnapshot, read_snapshot, write_specs
from devopsellence.cli.dev.start import Progress, StartSequence
from devopsellence.cli.dev.state import CONTROLLER, DEFAULT_NODE, DevState
from devopsellence.store.keys import InvalidName, check_name

#: Preferred ports of the ingress: the usual ports without root.
HTTP_PORT: Final = 8080
HTTPS_PORT: Final = 8443


@dataclass(frozen=True)
class UpOptions:
    """Options of ``dev up``; None for an absent option."""

    node_name: str | None = None
    labels: tuple[str, ...] | None = None
    etcd_port: int | None = None
    docker_host: str | None = None
    http_port: int | None = None
    https_port: int | None = None


@dataclass(frozen=True)
class RunningCluster:
    """Running local cluster; ``already``: all processes were running before; ``problem``: the agent's problem or ""."""

    layout: DevLayout
    state: DevState
    snapshot: SupervisorSnapshot
    labels: tuple[str, ...]
    problem: str
    already: bool


def bring_up(options: UpOptions, progress: Progress) -> RunningCluster:
    """Start the local cluster; running processes keep running.

    Raises:
        CliError: a requirement is missing, with the fix. Nothing is started before all requirements are checked.
    """
    layout = state.layout()
    docker_host = _docker(options, state.load(layout))
    programs = cluster.programs()
    if programs is None:
        raise problems.no_etcd()
    home_made = not layout.root.parent.exists()
    with state.exclusive(layout, lambda: progress("waiting for another dev command to finish"), make=True):
        before = supervisor_control.running(layout)
        if before is None:
            supervisor_control.stop(layout)  # leftovers of a killed supervisor, or of another version
        saved = state.load(layout)
        routes = _routes(docker_host, saved)
        decided = decide(options, saved, before, docker_host, MachinePorts(), home_made=home_made, routes=routes)
        now = datetime.datetime.now(datetime.UTC)
        stamps = certificates.ensure(layout, decided.node_name, decided.node_uid, now)
        state.save(layout, decided)
        specs = cluster.specs(layout, decided, programs, stamps, os.environ)
        return _start(layout, decided, specs, before, options, progress)


def _start(
    layout: DevLayout,
    decided: DevState,
    specs: tuple[ProcessSpec, ...],
    before: SupervisorSnapshot | None,
    options: UpOptions,
    progress: Progress,
) -> RunningCluster:
    if before is None:
        # The agent has no access before its node is registered.
        write_specs(layout.processes, specs[:1])
        supervisor = supervisor_control.start(layout, cluster.environment(os.environ))
    else:
        supervisor = before.supervisor
        supervisor_control.tell(layout, specs, supervisor)
    start = StartSequence(layout, decided, progress, lambda: supervisor_control.tell(layout, specs, supervisor))
    labels, problem = signals.run(start.run(options.labels))
    after = read_snapshot(layout.snapshot) or SupervisorSnapshot(supervisor, 0.0)
    already = before is not None and _pids(before) == _pids(after)
    return RunningCluster(layout, decided, after, labels, problem, already)


def decide(
    options: UpOptions,
    saved: DevState | None,
    before: SupervisorSnapshot | None,
    docker_host: str,
    ports: Ports,
    *,
    home_made: bool,
    routes: bool = False,
) -> DevState:
    """Return the settings of the cluster: from options, else saved, else free ports.

    ``before``: snapshot of the running supervisor; None for none. ``routes``: the ingress container is running; it
    keeps running while the cluster is down, and holds its ports.

    Raises:
        CliError: the node already has another name, or a port given as an option is in use.
    """
    name = options.node_name or (saved.node_name if saved else DEFAULT_NODE)
    try:
        check_name("node", name)
    except InvalidName as error:
        raise problems.bad_node_name(str(error)) from error
    if saved and name != saved.node_name:
        raise problems.other_node_name(name, saved.node_name)
    ours = before is not None and before.process(cluster.ETCD).alive
    known = saved or DevState(name, uuid.uuid4().hex, docker_host, 0, 0, home_made=home_made)
    etcd = _Listener("etcd", "--etcd-port", ports.why_not, ports.choose)
    client, client_given = etcd.port(options.etcd_port, known.client_port, given=known.client_port_given, ours=ours)
    peer = _port(known.peer_port, ports, client, ours=ours)
    leads = before is not None and before.process(CONTROLLER).alive
    gateway = _port(known.gateway_port, ports, client, peer, ours=leads)
    serves = before is not None and before.process(cluster.AGENT).alive
    agent = _port(known.agent_port, ports, client, peer, gateway, ours=serves)
    inner = (agent, gateway, client, peer)

    def everywhere(port: int) -> str:
        return ports.why_not(port, everywhere=True)

    http = _Listener("the ingress", "--http-port", everywhere, lambda: ports.next_free(HTTP_PORT, *inner))
    http_port, http_given = http.port(options.http_port, known.http_port, given=known.http_port_given, ours=routes)
    taken = (*inner, http_port)
    https = _Listener("the ingress", "--https-port", everywhere, lambda: ports.next_free(HTTPS_PORT, *taken))
    https_port, https_given = https.port(
        options.https_port, known.https_port, given=known.https_port_given, ours=routes
    )
    if https_port == http_port:
        raise problems.port_unusable("the ingress", "--https-port", https_port, "this is the HTTP port")
    return replace(
        known,
        docker_host=docker_host,
        client_port=client,
        peer_port=peer,
        client_port_given=client_given,
        agent_port=agent,
        gateway_port=gateway,
        http_port=http_port,
        https_port=https_port,
        http_port_given=http_given,
        https_port_given=https_given,
    )


@dataclass(frozen=True)
class _Listener:
    """Listener on a port with an option: name for messages, option, and the search for a port."""

    who: str
    option: str
    why_not: Callable[[int], str]
    choose: Callable[[], int]

    def port(self, asked: int | None, known: int, *, given: bool, ours: bool) -> tuple[int, bool]:
        """Return the port, and True for a port given as an option; ``ours``: the cluster listens on ``known``."""
        given = given or asked is not None
        port = asked or known
        if port and port == known and ours:
            return port, given
        why = self.why_not(port) if port else "no saved port"
        if not why:
            return port, given
        if given:
            raise problems.port_unusable(self.who, self.option, port, why)
        return self.choose(), False


def _port(known: int, ports: Ports, *avoid: int, ours: bool) -> int:
    """Return the saved port if still free, or in use by our own process (``ours``); else another free port."""
    if known and known not in avoid and (ours or not ports.why_not(known)):
        return known
    return ports.choose(*avoid)


def _docker(options: UpOptions, saved: DevState | None) -> str:
    """Return the address of the Docker Engine after a successful call."""
    host = options.docker_host or (saved.docker_host if saved else default_host())
    try:
        DockerHttpApi(host).version()
    except DockerHttpError as error:
        raise problems.docker_unusable(error) from error
    return host


def _routes(docker_host: str, saved: DevState | None) -> bool:
    """Return True if the ingress container is running, and so holds the saved ports."""
    try:
        return saved is not None and DockerHttpApi(docker_host).routes(saved.node_uid)
    except DockerHttpError as error:
        raise problems.docker_unusable(error) from error


def _pids(snapshot: SupervisorSnapshot) -> list[tuple[str, int, str]]:
    return [(process.name, process.pid, process.started) for process in snapshot.processes]
