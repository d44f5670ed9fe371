"""Agents of an environment and the services on its nodes, read from etcd in two rounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Environment, Heartbeat, Node, Release, Rollout
from devopsellence.cli.agent.client import AgentEndpoint, endpoint_of
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import release_numbers
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd


@dataclass(frozen=True)
class EnvironmentAgents:
    """Release that runs and attached nodes of an environment; absent and unreadable records are left out.

    ``agents`` has all attached nodes, or the requested nodes, sorted by name.
    """

    ref: EnvironmentRef
    agents: dict[str, AgentEndpoint]
    release: Release | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    statuses: dict[str, AssignmentStatus] = field(default_factory=dict)


async def read_agents(etcd: Etcd, ref: EnvironmentRef, node_names: tuple[str, ...] = ()) -> EnvironmentAgents:
    """Read the agents of an environment; with ``node_names``, only of these nodes.

    Raises:
        CliError: ``environment_unknown``; ``node_not_attached`` for a name in ``node_names``.
    """
    keys, reader = etcd.keys, Reader(etcd)
    environment, rollout = await asyncio.gather(
        reader.get(keys.environment(ref), Environment), reader.get(keys.rollout(ref), Rollout)
    )
    if environment is None:
        fix = NextAction("list nodes and environments", "devopsellence node list")
        raise CliError("environment_unknown", f"there is no environment {ref}", next_actions=[fix])
    attached = sorted(environment.nodes)
    for name in node_names:
        if name not in attached:
            message = f"node {name} is not attached to {ref}; attached: {', '.join(attached) or 'none'}"
            fix = NextAction("attach it", f"devopsellence node attach {name}")
            raise CliError("node_not_attached", message, next_actions=[fix])
    names = [name for name in attached if not node_names or name in node_names]
    number = release_numbers(environment.latest_release, rollout).target
    release, nodes, beats, statuses = await asyncio.gather(
        reader.get_many({"": keys.release(ref, number)} if number else {}, Release),
        reader.get_many({name: keys.node(name) for name in names}, Node),
        reader.get_many({name: keys.heartbeat(name) for name in names}, Heartbeat),
        reader.get_many({name: keys.status(name, ref) for name in names}, AssignmentStatus),
    )
    agents = {name: endpoint_of(name, nodes.get(name), beats.get(name)) for name in names}
    return EnvironmentAgents(ref, agents, release.get(""), nodes, statuses)
