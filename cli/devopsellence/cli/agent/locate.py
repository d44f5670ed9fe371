"""Which nodes run what of an environment, as etcd has it, in two rounds of reading."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Environment, Heartbeat, Node, Release
from devopsellence.cli.agent.client import AgentEndpoint, endpoint_of
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.store.reader import Reader
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd


@dataclass(frozen=True)
class EnvironmentAgents:
    """An environment's newest release and its attached nodes. What cannot be read or is not there is left out.

    ``agents`` has every node that is attached (or the one that was asked for), in order of their names.
    """

    ref: EnvironmentRef
    agents: dict[str, AgentEndpoint]
    release: Release | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    statuses: dict[str, AssignmentStatus] = field(default_factory=dict)


async def read_agents(etcd: Etcd, ref: EnvironmentRef, wanted: tuple[str, ...] = ()) -> EnvironmentAgents:
    """Everything about ``ref`` that says whom to ask; with ``wanted`` only about those nodes.

    Raises:
        CliError: ``environment_unknown``, or ``node_not_attached`` for one of ``wanted``.
    """
    keys, reader = etcd.keys, Reader(etcd)
    environment = await reader.get(keys.environment(ref), Environment)
    if environment is None:
        mend = NextAction("see which there are", "devopsellence node list")
        raise CliError("environment_unknown", f"there is no environment {ref}", next_actions=[mend])
    attached = sorted(environment.nodes)
    for name in wanted:
        if name not in attached:
            message = f"node {name} is not attached to {ref}; attached: {', '.join(attached) or 'none'}"
            mend = NextAction("attach it", f"devopsellence node attach {name}")
            raise CliError("node_not_attached", message, next_actions=[mend])
    names = [name for name in attached if not wanted or name in wanted]
    number = environment.latest_release
    release, nodes, beats, statuses = await asyncio.gather(
        reader.get_many({"": keys.release(ref, number)} if number else {}, Release),
        reader.get_many({name: keys.node(name) for name in names}, Node),
        reader.get_many({name: keys.heartbeat(name) for name in names}, Heartbeat),
        reader.get_many({name: keys.status(name, ref) for name in names}, AssignmentStatus),
    )
    agents = {name: endpoint_of(name, nodes.get(name), beats.get(name)) for name in names}
    return EnvironmentAgents(ref, agents, release.get(""), nodes, statuses)
