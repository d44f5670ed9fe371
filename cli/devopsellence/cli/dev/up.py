"""``dev up``: from whatever there is to a running local cluster. Every step may have been done before."""

from __future__ import annotations

import asyncio
import datetime
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.cli.dev import certificates, cluster, problems, state, supervisor_control
from devopsellence.cli.dev.docker_api import DockerHttpApi, DockerHttpError, default_host
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.ports import MachinePorts, Ports
from devopsellence.cli.dev.spec import ProcessSpec, SupervisorSnapshot, read_snapshot, write_specs
from devopsellence.cli.dev.start import Progress, StartSequence
from devopsellence.cli.dev.state import DEFAULT_NODE, DevState
from devopsellence.store.keys import InvalidName, check_name

#: Where the apps' ingress answers, if nobody else does there: the usual ports where one is not root.
HTTP_PORT: Final = 8080
HTTPS_PORT: Final = 8443


@dataclass(frozen=True)
class UpOptions:
    """What a person said; None where they said nothing."""

    node_name: str | None = None
    labels: tuple[str, ...] | None = None
    etcd_port: int | None = None
    docker_host: str | None = None
    http_port: int | None = None
    https_port: int | None = None


@dataclass(frozen=True)
class RunningCluster:
    """The local cluster, up. ``already``: nothing had to be started for it. ``problem``: what hinders the agent."""

    layout: DevLayout
    state: DevState
    snapshot: SupervisorSnapshot
    labels: tuple[str, ...]
    problem: str
    already: bool


def up(wish: UpOptions, progress: Progress) -> RunningCluster:
    """Bring the local cluster up; what runs already goes on.

    Raises:
        CliError: what is missing or in the way, and what mends it. Nothing is started before all of this machine's
            part is found to be there.
    """
    layout = state.layout()
    docker_host = _docker(wish, state.load(layout))
    programs = cluster.programs()
    if programs is None:
        raise problems.no_etcd()
    home_made = not layout.root.parent.exists()
    with state.exclusive(layout, lambda: progress("another dev command is at work; waiting for it"), make=True):
        before = supervisor_control.running(layout)
        if before is None:
            supervisor_control.stop(layout)  # what is left of one that was killed, or of another version
        remembered = state.load(layout)
        routes = _routes(docker_host, remembered)
        decided = decide(wish, remembered, before, docker_host, MachinePorts(), home_made=home_made, routes=routes)
        now = datetime.datetime.now(datetime.UTC)
        stamps = certificates.ensure(layout, decided.node_name, decided.node_uid, now)
        state.save(layout, decided)
        specs = cluster.specs(layout, decided, programs, stamps, os.environ)
        return _start(layout, decided, specs, before, wish, progress)


def _start(
    layout: DevLayout,
    decided: DevState,
    specs: tuple[ProcessSpec, ...],
    before: SupervisorSnapshot | None,
    wish: UpOptions,
    progress: Progress,
) -> RunningCluster:
    if before is None:
        # The controller and the agent can do nothing before etcd knows them.
        write_specs(layout.processes, specs[:1])
        supervisor = supervisor_control.start(layout, cluster.environment(os.environ))
    else:
        supervisor = before.supervisor
        supervisor_control.tell(layout, specs, supervisor)
    start = StartSequence(layout, decided, progress, lambda: supervisor_control.tell(layout, specs, supervisor))
    labels, problem = asyncio.run(start.run(wish.labels))
    after = read_snapshot(layout.snapshot) or SupervisorSnapshot(supervisor, 0.0)
    already = before is not None and _pids(before) == _pids(after)
    return RunningCluster(layout, decided, after, labels, problem, already)


def decide(
    wish: UpOptions,
    remembered: DevState | None,
    before: SupervisorSnapshot | None,
    docker_host: str,
    ports: Ports,
    *,
    home_made: bool,
    routes: bool = False,
) -> DevState:
    """What holds from now on: what was said, else what is remembered, else what is found free.

    ``before``: what the supervisor runs; None when there is none. ``routes``: the apps' ingress runs, which it goes on
    to do without us.

    Raises:
        CliError: the node has another name already, or a port that a person chose is taken.
    """
    name = wish.node_name or (remembered.node_name if remembered else DEFAULT_NODE)
    try:
        check_name("node", name)
    except InvalidName as error:
        raise problems.bad_node_name(str(error)) from error
    if remembered and name != remembered.node_name:
        raise problems.other_node_name(name, remembered.node_name)
    ours = before is not None and before.process(cluster.ETCD).alive
    known = remembered or DevState(name, uuid.uuid4().hex, docker_host, 0, 0, home_made=home_made)
    etcd = _Listener("etcd", "--etcd-port", ports.why_not, ports.choose)
    client, client_given = etcd.port(wish.etcd_port, known.client_port, given=known.client_port_given, ours=ours)
    peer = _port(known.peer_port, ports, client, ours=ours)
    serves = before is not None and before.process(cluster.AGENT).alive
    agent = _port(known.agent_port, ports, client, peer, ours=serves)

    def everywhere(port: int) -> str:
        return ports.why_not(port, everywhere=True)

    http = _Listener("the ingress", "--http-port", everywhere, lambda: ports.next_free(HTTP_PORT, agent, client, peer))
    http_port, http_given = http.port(wish.http_port, known.http_port, given=known.http_port_given, ours=routes)
    taken = (agent, client, peer, http_port)
    https = _Listener("the ingress", "--https-port", everywhere, lambda: ports.next_free(HTTPS_PORT, *taken))
    https_port, https_given = https.port(wish.https_port, known.https_port, given=known.https_port_given, ours=routes)
    if https_port == http_port:
        raise problems.port_unusable("the ingress", "--https-port", https_port, "it is its port for HTTP")
    return replace(
        known,
        docker_host=docker_host,
        client_port=client,
        peer_port=peer,
        client_port_given=client_given,
        agent_port=agent,
        http_port=http_port,
        https_port=https_port,
        http_port_given=http_given,
        https_port_given=https_given,
    )


@dataclass(frozen=True)
class _Listener:
    """Who listens on a port that a person may choose, and with which option they do."""

    who: str
    option: str
    why_not: Callable[[int], str]
    choose: Callable[[], int]

    def port(self, asked: int | None, known: int, *, given: bool, ours: bool) -> tuple[int, bool]:
        """The port, and whether a person chose it. ``ours``: we listen already, on the one that is known."""
        given = given or asked is not None
        port = asked or known
        if port and port == known and ours:
            return port, given
        why = self.why_not(port) if port else "none is remembered"
        if not why:
            return port, given
        if given:
            raise problems.port_unusable(self.who, self.option, port, why)
        return self.choose(), False


def _port(known: int, ports: Ports, *avoid: int, ours: bool) -> int:
    """The remembered port unless somebody else took it, which it is not while the process it belongs to runs (ours)."""
    if known and known not in avoid and (ours or not ports.why_not(known)):
        return known
    return ports.choose(*avoid)


def _docker(wish: UpOptions, remembered: DevState | None) -> str:
    """Where the Docker Engine is, which has just answered."""
    host = wish.docker_host or (remembered.docker_host if remembered else default_host())
    try:
        DockerHttpApi(host).version()
    except DockerHttpError as error:
        raise problems.docker_unusable(error) from error
    return host


def _routes(docker_host: str, remembered: DevState | None) -> bool:
    """The apps' ingress runs, and so has the ports that are remembered."""
    try:
        return remembered is not None and DockerHttpApi(docker_host).routes(remembered.node_uid)
    except DockerHttpError as error:
        raise problems.docker_unusable(error) from error


def _pids(snapshot: SupervisorSnapshot) -> list[tuple[str, int, str]]:
    return [(process.name, process.pid, process.started) for process in snapshot.processes]
