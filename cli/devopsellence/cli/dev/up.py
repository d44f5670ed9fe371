"""``dev up``: from whatever there is to a running local cluster. Every step may have been done before."""

from __future__ import annotations

import asyncio
import datetime
import os
import uuid
from dataclasses import dataclass

from devopsellence.cli.dev import certificates, cluster, keeper, problems, state
from devopsellence.cli.dev.engine import Engine, EngineError, default_host
from devopsellence.cli.dev.layout import Layout
from devopsellence.cli.dev.ports import LoopbackPorts, Ports
from devopsellence.cli.dev.spec import ProcessSpec, Snapshot, read_snapshot, write_specs
from devopsellence.cli.dev.start import Progress, Start
from devopsellence.cli.dev.state import DEFAULT_NODE, DevState
from devopsellence.store.keys import InvalidName, check_name


@dataclass(frozen=True)
class Wish:
    """What a person said; None where they said nothing."""

    node_name: str | None = None
    labels: tuple[str, ...] | None = None
    etcd_port: int | None = None
    docker_host: str | None = None


@dataclass(frozen=True)
class Running:
    """The local cluster, up. ``already``: nothing had to be started for it. ``problem``: what hinders the agent."""

    layout: Layout
    state: DevState
    snapshot: Snapshot
    labels: tuple[str, ...]
    problem: str
    already: bool


def up(wish: Wish, progress: Progress) -> Running:
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
        before = keeper.running(layout)
        if before is None:
            keeper.stop(layout)  # what is left of one that was killed, or of another version
        remembered = state.load(layout)
        decided = decide(wish, remembered, before, docker_host, LoopbackPorts(), home_made=home_made)
        now = datetime.datetime.now(datetime.UTC)
        stamps = certificates.ensure(layout, decided.node_name, decided.node_uid, now)
        state.save(layout, decided)
        specs = cluster.specs(layout, decided, programs, stamps, os.environ)
        return _start(layout, decided, specs, before, wish, progress)


def _start(
    layout: Layout,
    decided: DevState,
    specs: tuple[ProcessSpec, ...],
    before: Snapshot | None,
    wish: Wish,
    progress: Progress,
) -> Running:
    if before is None:
        # The controller and the agent can do nothing before etcd knows them.
        write_specs(layout.processes, specs[:1])
        supervisor = keeper.start(layout, cluster.environment(os.environ))
    else:
        supervisor = before.supervisor
        keeper.tell(layout, specs, supervisor)
    start = Start(layout, decided, progress, lambda: keeper.tell(layout, specs, supervisor))
    labels, problem = asyncio.run(start.run(wish.labels))
    after = read_snapshot(layout.snapshot) or Snapshot(supervisor, 0.0)
    already = before is not None and _pids(before) == _pids(after)
    return Running(layout, decided, after, labels, problem, already)


def decide(
    wish: Wish,
    remembered: DevState | None,
    before: Snapshot | None,
    docker_host: str,
    ports: Ports,
    *,
    home_made: bool,
) -> DevState:
    """What holds from now on: what was said, else what is remembered, else what is found free.

    ``before``: what the supervisor runs; None when there is none.

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
    client = _client_port(wish.etcd_port, remembered, ports, ours=ours)
    peer = _port(remembered.peer_port if remembered else 0, ports, client, ours=ours)
    serves = before is not None and before.process(cluster.AGENT).alive
    agent = _port(remembered.agent_port if remembered else 0, ports, client, peer, ours=serves)
    return DevState(
        node_name=name,
        node_uid=remembered.node_uid if remembered else uuid.uuid4().hex,
        docker_host=docker_host,
        client_port=client,
        peer_port=peer,
        client_port_given=wish.etcd_port is not None or (remembered is not None and remembered.client_port_given),
        home_made=remembered.home_made if remembered else home_made,
        agent_port=agent,
    )


def _client_port(asked: int | None, remembered: DevState | None, ports: Ports, *, ours: bool) -> int:
    """``ours``: our etcd runs, so that it is us who has the remembered port."""
    known = remembered.client_port if remembered else 0
    given = asked is not None or (remembered is not None and remembered.client_port_given)
    port = asked or known
    if port and port == known and ours:
        return port
    why = ports.why_not(port) if port else "none is remembered"
    if not why:
        return port
    if given:
        raise problems.port_unusable(port, why)
    return ports.choose()


def _port(known: int, ports: Ports, *avoid: int, ours: bool) -> int:
    """The remembered port unless somebody else took it, which it is not while the process it belongs to runs (ours)."""
    if known and known not in avoid and (ours or not ports.why_not(known)):
        return known
    return ports.choose(*avoid)


def _docker(wish: Wish, remembered: DevState | None) -> str:
    """Where the Docker Engine is, which has just answered."""
    host = wish.docker_host or (remembered.docker_host if remembered else default_host())
    try:
        Engine(host).version()
    except EngineError as error:
        raise problems.docker_unusable(error) from error
    return host


def _pids(snapshot: Snapshot) -> list[tuple[str, int, str]]:
    return [(each.name, each.pid, each.started) for each in snapshot.processes]
