"""Nodes in the store: their labels, whether they take part, and the environments that they are attached to.

How they are registered, emptied and removed is in ``machines``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from devopsellence.api.v1.stored_pb2 import Environment, Event, Heartbeat, Node
from devopsellence.cli import errors
from devopsellence.cli.output import CliError
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.util.text import iso, safe
from devopsellence.placement import LABELS
from devopsellence.store.codec import decode
from devopsellence.store.etcd import MAX_OPERATIONS, Etcd, Put
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.cli.secrets.access import Exposure, ReencryptResult


# One operation is the change itself.
_MAX_EVENTS: Final = MAX_OPERATIONS - 1


@dataclass(frozen=True)
class NodeOverview:
    """A node at a glance; ``node`` is None when its record cannot be read."""

    name: str
    node: Node | None
    heartbeat: Heartbeat | None
    environments: tuple[str, ...]

    @property
    def note(self) -> str:
        """What is not as it should be; "" when all is."""
        if self.node is None:
            return "its record cannot be read"
        if self.heartbeat is None:
            return "no heartbeat: the agent is not there"
        if self.heartbeat.uid != self.node.uid:
            return f"the agent was started with uid {self.heartbeat.uid}, registered is {self.node.uid}"
        return safe(self.heartbeat.problem)


def parse_labels(text: str) -> list[str]:
    """The labels in ``web,worker``, sorted.

    Raises:
        CliError: ``invalid_label``: none, or one that no service asks for (exit code 2).
    """
    labels = sorted({part.strip() for part in text.split(",") if part.strip()})
    known = list(LABELS.values())
    wrong = [label for label in labels if label not in known]
    if wrong or not labels:
        what = f"{', '.join(map(repr, wrong))} is no label" if wrong else "no label is given"
        raise CliError("invalid_label", f"{what}; the labels are {', '.join(known)}", exit_code=2)
    return labels


async def find(etcd: Etcd, name: str) -> Node:
    """The node of that name.

    Raises:
        CliError: ``node_unknown``. MalformedRecord: its record cannot be read.
    """
    key = etcd.keys.node(name)
    found = await etcd.get(key)
    if found is None:
        raise errors.node_unknown(name)
    return decode(Node, key, found.value)


async def relabel(etcd: Etcd, name: str, edit: Callable[[list[str]], list[str]]) -> Node:
    """Give a node the labels that ``edit`` makes of those it has."""

    def relabelled(before: Node | None) -> Node:
        if before is None:
            raise errors.node_unknown(name)
        after = Node()
        after.CopyFrom(before)
        after.labels[:] = edit(list(before.labels))
        return after

    return await transaction.change(etcd, etcd.keys.node(name), Node, relabelled)


async def cordon(etcd: Etcd, name: str, *, cordoned: bool) -> Node:
    """Let a node keep what it runs and take nothing new; or let it take part again, also if it is being drained."""

    def edit(before: Node | None) -> Node:
        if before is None:
            raise errors.node_unknown(name)
        after = Node()
        after.CopyFrom(before)
        after.cordoned = cordoned
        if not cordoned:
            after.ClearField("drain")
        return after

    return await transaction.change(etcd, etcd.keys.node(name), Node, edit)


async def attach(etcd: Etcd, ref: EnvironmentRef, name: str) -> tuple[Environment, ReencryptResult]:
    """Attach a node that is registered; the environment is made if it does not exist yet.

    Before that its secrets are sealed for the node, so that nothing is assigned to it that it cannot open.

    Raises:
        CliError: ``node_unknown``; ``ingress_conflict``: another environment of the node has one of its hosts.
    """
    if await etcd.get(etcd.keys.node(name)) is None:
        raise errors.node_unknown(name)
    from devopsellence.cli.ingress import hosts
    from devopsellence.cli.secrets import access

    if problem := await hosts.find_conflict(etcd, ref, await hosts.environment_hosts(etcd, ref), [name]):
        raise problem
    sealed = await access.grant_to_node(etcd, ref, name)
    fresh = transaction.new_environment(ref)

    def edit(before: Environment | None) -> Environment:
        after = Environment()
        after.CopyFrom(before or fresh)
        after.nodes[:] = sorted({*after.nodes, name})
        return after

    return await _change_environment(etcd, ref, edit, name, "node_attached", f"attached node {name}"), sealed


async def detach(etcd: Etcd, ref: EnvironmentRef, name: str) -> tuple[Environment, Exposure]:
    """Detach a node; also returns what it could open, which nothing can make it forget.

    Raises:
        CliError: ``node_not_attached``.
    """
    from devopsellence.cli.secrets import access

    seen = await access.exposure_of(etcd, ref, name)

    def edit(before: Environment | None) -> Environment:
        if before is None or name not in before.nodes:
            raise CliError("node_not_attached", f"node {name} is not attached to {ref}")
        after = Environment()
        after.CopyFrom(before)
        after.nodes[:] = [node for node in before.nodes if node != name]
        return after

    return await _change_environment(etcd, ref, edit, name, "node_detached", f"detached node {name}"), seen


async def _change_environment(
    etcd: Etcd, ref: EnvironmentRef, edit: Callable[[Environment | None], Environment], node: str, code: str, did: str
) -> Environment:
    puts = await event_puts(etcd, [ref], node, code, did)
    return await transaction.change(etcd, etcd.keys.environment(ref), Environment, edit, also=lambda _: puts)


async def attached_environments(etcd: Etcd, name: str) -> list[EnvironmentRef]:
    """The environments that the node is attached to, sorted; records that cannot be read are left out."""
    found, keys = [], etcd.keys
    for key, environment in (await Reader(etcd).get_prefix(keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            found += [keys.parse_environment(key)] if name in environment.nodes else []
    return sorted(found)


async def event_puts(etcd: Etcd, refs: Iterable[EnvironmentRef], node: str, code: str, did: str) -> list[Put]:
    """What tells, in each of these environments, what somebody did with a node; as many as one transaction takes."""
    message = f"{transaction.current_user()} {did}"
    return [
        await transaction.event_put(etcd, ref, Event(severity=Event.INFO, code=code, message=message, node=node))
        for ref in list(refs)[:_MAX_EVENTS]
    ]


async def overview(etcd: Etcd) -> tuple[list[NodeOverview], list[UnreadableKey]]:
    """All nodes, sorted by name, and the keys that could not be read."""
    reader, keys = Reader(etcd), etcd.keys
    listing, heartbeats, environments = await asyncio.gather(
        reader.get_prefix(keys.nodes_prefix, Node),
        reader.get_prefix(keys.heartbeats_prefix, Heartbeat),
        reader.get_prefix(keys.environments_prefix, Environment),
    )
    unreadable = {problem.key for problem in reader.problems if problem.key.startswith(keys.nodes_prefix)}
    found = []
    for key in sorted({*listing, *unreadable}):
        name = key.removeprefix(keys.nodes_prefix)
        attached = tuple(
            environment_key.removeprefix(keys.environments_prefix)
            for environment_key, environment in environments.items()
            if name in environment.nodes
        )
        found.append(NodeOverview(name, listing.get(key), heartbeats.get(f"{keys.heartbeats_prefix}{name}"), attached))
    return found, reader.problems


def document(found: Node) -> dict[str, Any]:
    """A node in JSON."""
    return {
        "node": found.name,
        "uid": found.uid,
        "labels": list(found.labels),
        "address": found.address,
        "cordoned": found.cordoned,
        "drain": _drain(found),
        "registered_at": iso(found.registered_at),
    }


def _drain(found: Node) -> dict[str, Any] | None:
    if not found.HasField("drain"):
        return None
    drain = found.drain
    return {"requested_at": iso(drain.requested_at), "requested_by": drain.requested_by, "volumes": drain.volumes}
