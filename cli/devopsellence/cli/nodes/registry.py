"""Node records: labels, cordon, attached environments.

Registering, draining and removing nodes is in the modules beside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from devopsellence.api.v1.stored_pb2 import Environment, Event, Heartbeat, Node
from devopsellence.cli import errors
from devopsellence.cli.output import CliError
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import few, iso
from devopsellence.placement import LABELS
from devopsellence.store.codec import decode
from devopsellence.store.etcd import MAX_OPERATIONS, Etcd, Put
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.cli.secrets.access import Exposure, ReencryptResult


# One operation of the transaction is the change of the node.
_MAX_EVENTS: Final = MAX_OPERATIONS - 1


@dataclass(frozen=True)
class NodeOverview:
    """Node, heartbeat and environments; ``node`` is None if the record is unreadable."""

    name: str
    node: Node | None
    heartbeat: Heartbeat | None
    environments: tuple[str, ...]

    @property
    def note(self) -> str:
        """Problem of the node; "" if there is none."""
        if self.node is None:
            return "the node record is unreadable"
        if self.heartbeat is None:
            return "no heartbeat: the agent is not running or cannot reach etcd"
        if self.heartbeat.uid != self.node.uid:
            return f"the agent runs with uid {self.heartbeat.uid}, but the node is registered with {self.node.uid}"
        clauses = [safe(self.heartbeat.problem or self.heartbeat.folder_problem), second_agent_note(self.heartbeat)]
        return "; ".join(filter(None, clauses))


def second_agent_note(beat: Heartbeat) -> str:
    """Return a clause about further agents with the uid of the node, which name themselves; "" for none. Pure."""
    if not beat.others:
        return ""
    instances = [(beat.instance, beat.hostname), *((other.instance, other.hostname) for other in beat.others)]
    agents = [f"{safe(instance)} on {safe(hostname) or 'an unnamed host'}" for instance, hostname in instances]
    return (
        f"{len(agents)} agents run with the uid of this node: {few(agents)}; stop all but one "
        "(a cloned machine needs its own node register)"
    )


def parse_labels(text: str) -> list[str]:
    """Return the labels in ``web,worker``, sorted.

    Raises:
        CliError: ``invalid_label`` (exit code 2): no label, or an unknown label.
    """
    labels = sorted({part.strip() for part in text.split(",") if part.strip()})
    known = list(LABELS.values())
    wrong = [label for label in labels if label not in known]
    if wrong or not labels:
        message = f"unknown label {', '.join(map(repr, wrong))}" if wrong else "no label given"
        raise CliError("invalid_label", f"{message}; the labels are {', '.join(known)}", exit_code=2)
    return labels


async def find(etcd: Etcd, name: str) -> Node:
    """Return the record of a node.

    Raises:
        CliError: ``node_unknown``. MalformedRecord: the record is unreadable.
    """
    key = etcd.keys.node(name)
    stored = await etcd.get(key)
    if stored is None:
        raise errors.node_unknown(name)
    return decode(Node, key, stored.value)


async def relabel(etcd: Etcd, name: str, edit: Callable[[list[str]], list[str]]) -> Node:
    """Replace the labels of a node by the result of ``edit``."""

    def relabelled(before: Node | None) -> Node:
        if before is None:
            raise errors.node_unknown(name)
        after = Node()
        after.CopyFrom(before)
        after.labels[:] = edit(list(before.labels))
        return after

    return await transaction.change(etcd, etcd.keys.node(name), Node, relabelled)


async def cordon(etcd: Etcd, name: str, *, cordoned: bool) -> Node:
    """Cordon or uncordon a node; uncordoning also cancels a drain."""

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


async def attach(etcd: Etcd, ref: EnvironmentRef, names: Collection[str]) -> tuple[Environment, ReencryptResult]:
    """Attach registered nodes to an environment; create the environment if it does not exist.

    First the secrets are encrypted for the nodes, so that these can decrypt everything assigned to them. All nodes are
    attached, or none.

    Raises:
        CliError: ``node_unknown``; ``ingress_conflict``: another environment of a node has one of its hosts;
            ``assignment_too_large``: etcd could not take what a node is to run.
    """
    for name in names:
        if await etcd.get(etcd.keys.node(name)) is None:
            raise errors.node_unknown(name)
    from devopsellence.cli.deploy import size
    from devopsellence.cli.ingress import hosts
    from devopsellence.cli.secrets import access

    if problem := await hosts.find_conflict(etcd, ref, await hosts.environment_hosts(etcd, ref), names):
        raise problem
    await size.check_attachment(etcd, ref, names)
    reencrypted = await access.grant_to_nodes(etcd, ref, names)
    fresh = transaction.new_environment(ref)

    def edit(before: Environment | None) -> Environment:
        after = Environment()
        after.CopyFrom(before or fresh)
        after.nodes[:] = sorted({*after.nodes, *names})
        return after

    return await _change_environment(etcd, ref, edit, names, "node_attached", "attached"), reencrypted


async def check_attached(etcd: Etcd, ref: EnvironmentRef, name: str) -> None:
    """Check that a node is attached to an environment.

    Raises:
        CliError: ``node_not_attached``.
    """
    key = etcd.keys.environment(ref)
    stored = await etcd.get(key)
    if stored is None or name not in decode(Environment, key, stored.value).nodes:
        raise CliError("node_not_attached", f"node {name} is not attached to {ref}")


async def detach(etcd: Etcd, ref: EnvironmentRef, name: str) -> tuple[Environment, Exposure]:
    """Detach a node; also return the secrets that the node could decrypt and may still know.

    Raises:
        CliError: ``node_not_attached``.
    """
    from devopsellence.cli.secrets import access

    exposed = await access.exposure_of(etcd, ref, name)

    def edit(before: Environment | None) -> Environment:
        if before is None or name not in before.nodes:
            raise CliError("node_not_attached", f"node {name} is not attached to {ref}")
        after = Environment()
        after.CopyFrom(before)
        after.nodes[:] = [node for node in before.nodes if node != name]
        return after

    return await _change_environment(etcd, ref, edit, [name], "node_detached", "detached"), exposed


async def _change_environment(
    etcd: Etcd,
    ref: EnvironmentRef,
    edit: Callable[[Environment | None], Environment],
    names: Iterable[str],
    code: str,
    did: str,
) -> Environment:
    puts = [
        put
        for name in list(names)[:_MAX_EVENTS]
        for put in await event_puts(etcd, [ref], name, code, f"{did} node {name}")
    ]
    return await transaction.change(etcd, etcd.keys.environment(ref), Environment, edit, also=lambda _: puts)


async def attached_environments(etcd: Etcd, name: str) -> list[EnvironmentRef]:
    """Return the environments with the node attached, sorted; unreadable records are left out."""
    refs, keys = [], etcd.keys
    for key, environment in (await Reader(etcd).get_prefix(keys.environments_prefix, Environment)).items():
        with suppress(ValueError):
            refs += [keys.parse_environment(key)] if name in environment.nodes else []
    return sorted(refs)


async def event_puts(etcd: Etcd, refs: Iterable[EnvironmentRef], node: str, code: str, did: str) -> list[Put]:
    """Return writes of an event about a node in every environment, at most as many as fit into a transaction."""
    message = f"{author(etcd)} {did}"
    return [
        await transaction.event_put(etcd, ref, Event(severity=Event.INFO, code=code, message=message, node=node))
        for ref in list(refs)[:_MAX_EVENTS]
    ]


async def overview(etcd: Etcd) -> tuple[list[NodeOverview], list[UnreadableKey]]:
    """Return all nodes, sorted by name, and the unreadable keys."""
    reader, keys = Reader(etcd), etcd.keys
    listing, heartbeats, environments = await asyncio.gather(
        reader.get_prefix(keys.nodes_prefix, Node),
        reader.get_prefix(keys.heartbeats_prefix, Heartbeat),
        reader.get_prefix(keys.environments_prefix, Environment),
    )
    unreadable = {problem.key for problem in reader.problems if problem.key.startswith(keys.nodes_prefix)}
    overviews = []
    for key in sorted({*listing, *unreadable}):
        name = key.removeprefix(keys.nodes_prefix)
        attached = tuple(
            environment_key.removeprefix(keys.environments_prefix)
            for environment_key, environment in environments.items()
            if name in environment.nodes
        )
        overviews.append(
            NodeOverview(name, listing.get(key), heartbeats.get(f"{keys.heartbeats_prefix}{name}"), attached)
        )
    return overviews, reader.problems


def document(node: Node) -> dict[str, Any]:
    """Return the JSON form of a node record."""
    return {
        "node": node.name,
        "uid": node.uid,
        "labels": list(node.labels),
        "address": node.address,
        "cordoned": node.cordoned,
        "drain": _drain(node),
        "registered_at": iso(node.registered_at),
    }


def _drain(node: Node) -> dict[str, Any] | None:
    if not node.HasField("drain"):
        return None
    drain = node.drain
    return {"requested_at": iso(drain.requested_at), "requested_by": drain.requested_by, "volumes": drain.volumes}
