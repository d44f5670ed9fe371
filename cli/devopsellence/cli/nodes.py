"""What ``node`` does to the store."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devopsellence.api.v1.stored_pb2 import Environment, Event, Heartbeat, Node
from devopsellence.cli import write
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.read import Reader
from devopsellence.cli.view.snapshot import Problem
from devopsellence.cli.view.words import iso, safe
from devopsellence.placement import LABELS
from devopsellence.store.errors import PermissionDenied
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.cli.secrets.members import Resealed
    from devopsellence.cli.secrets.records import SecretId


@dataclass(frozen=True)
class Overview:
    """A node as ``node list`` shows it; ``node`` is None when its record cannot be read."""

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


async def register(etcd: Etcd, name: str, labels: list[str], address: str, *, grant: bool) -> Node:
    """The node of that name, made if there is none yet; with ``grant`` its certificate is let into etcd.

    Raises:
        CliError: ``node_exists``: there is one with other labels or another address.
    """
    new = Node(name=name, uid=uuid.uuid4().hex, labels=labels, address=address, registered_at=write.now())

    def edit(before: Node | None) -> Node:
        if before is None:
            return new
        if (list(before.labels), before.address) != (labels, address):
            has = f"labels {','.join(before.labels)}" + (f", address {before.address}" if before.address else "")
            action = NextAction("change its labels", f"devopsellence node label set {name} --labels {','.join(labels)}")
            message = f"there is a node {name} already, which is another ({has})"
            raise CliError("node_exists", message, next_actions=[action])
        return before

    found = await write.change(etcd, etcd.keys.node(name), Node, edit)
    if grant:
        await _let_in(etcd, name)
    return found


async def _let_in(etcd: Etcd, name: str) -> None:
    from devopsellence.store import access

    try:
        await access.grant_node(etcd, name)
    except PermissionDenied as error:
        message = f"node {name} is registered, but only root may let its certificate into etcd"
        action = NextAction("with root's certificate", f"devopsellence node register {name}, as before")
        raise CliError("etcd_permission_denied", message, next_actions=[action]) from error


async def relabel(etcd: Etcd, name: str, edit: Callable[[list[str]], list[str]]) -> Node:
    """Give a node the labels that ``edit`` makes of those it has."""

    def relabelled(before: Node | None) -> Node:
        if before is None:
            raise unknown(name)
        after = Node()
        after.CopyFrom(before)
        after.labels[:] = edit(list(before.labels))
        return after

    return await write.change(etcd, etcd.keys.node(name), Node, relabelled)


async def cordon(etcd: Etcd, name: str, *, cordoned: bool) -> Node:
    """Let a node keep what it runs and take nothing new, or let it take part again."""

    def edit(before: Node | None) -> Node:
        if before is None:
            raise unknown(name)
        after = Node()
        after.CopyFrom(before)
        after.cordoned = cordoned
        return after

    return await write.change(etcd, etcd.keys.node(name), Node, edit)


async def attach(etcd: Etcd, ref: EnvironmentRef, name: str) -> tuple[Environment, Resealed]:
    """Attach a node that is registered; the environment is made if it does not exist yet.

    Before that its secrets are sealed for the node, so that nothing is assigned to it that it cannot open.
    """
    if await etcd.get(etcd.keys.node(name)) is None:
        raise unknown(name)
    from devopsellence.cli.release.publish import new_environment
    from devopsellence.cli.secrets import members

    sealed = await members.admit(etcd, ref, name)
    fresh = new_environment(ref)

    def edit(before: Environment | None) -> Environment:
        after = Environment()
        after.CopyFrom(before or fresh)
        after.nodes[:] = sorted({*after.nodes, name})
        return after

    return await _change_environment(etcd, ref, edit, name, "node_attached", f"attached node {name}"), sealed


async def detach(etcd: Etcd, ref: EnvironmentRef, name: str) -> tuple[Environment, list[SecretId]]:
    """Detach a node; also returns the secrets that it could open, which nothing can make it forget.

    Raises:
        CliError: ``node_not_attached``.
    """
    from devopsellence.cli.secrets import members

    seen = await members.exposed_to(etcd, ref, name)

    def edit(before: Environment | None) -> Environment:
        if before is None or name not in before.nodes:
            raise CliError("node_not_attached", f"node {name} is not attached to {ref}")
        after = Environment()
        after.CopyFrom(before)
        after.nodes[:] = [each for each in before.nodes if each != name]
        return after

    return await _change_environment(etcd, ref, edit, name, "node_detached", f"detached node {name}"), seen


async def _change_environment(
    etcd: Etcd, ref: EnvironmentRef, edit: Callable[[Environment | None], Environment], node: str, code: str, did: str
) -> Environment:
    event = Event(severity=Event.INFO, code=code, message=f"{write.who()} {did}", node=node)
    put = await write.event_put(etcd, ref, event)

    def also(_: Environment) -> list[Put]:
        return [put]

    return await write.change(etcd, etcd.keys.environment(ref), Environment, edit, also=also)


async def overview(etcd: Etcd) -> tuple[list[Overview], list[Problem]]:
    """All nodes, sorted by name, and the keys that could not be read."""
    reader, keys = Reader(etcd), etcd.keys
    listing, heartbeats, environments = await asyncio.gather(
        reader.under(keys.nodes_prefix, Node),
        reader.under(keys.heartbeats_prefix, Heartbeat),
        reader.under(keys.environments_prefix, Environment),
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
        found.append(Overview(name, listing.get(key), heartbeats.get(f"{keys.heartbeats_prefix}{name}"), attached))
    return found, reader.problems


def cells(each: Overview) -> list[str]:
    """A row of ``node list``."""
    return [
        safe(each.name),
        ",".join(each.node.labels) if each.node and each.node.labels else "-",
        (safe(each.node.address) if each.node else "") or "-",
        "up" if each.heartbeat else "gone",
        (safe(each.heartbeat.docker_version) if each.heartbeat else "") or "-",
        ", ".join(each.environments) or "-",
        each.note,
    ]


def overview_document(each: Overview) -> dict[str, Any]:
    """A node of ``node list`` in JSON."""
    heartbeat = each.heartbeat
    return {
        **(document(each.node) if each.node else {"node": each.name}),
        "agent": "up" if heartbeat else "gone",
        "agent_version": heartbeat.agent_version if heartbeat else "",
        "docker_version": heartbeat.docker_version if heartbeat else "",
        "hostname": heartbeat.hostname if heartbeat else "",
        "api_address": heartbeat.api_address if heartbeat else "",
        "environments": list(each.environments),
        "note": each.note,
    }


def document(found: Node) -> dict[str, Any]:
    """A node in JSON."""
    return {
        "node": found.name,
        "uid": found.uid,
        "labels": list(found.labels),
        "address": found.address,
        "cordoned": found.cordoned,
        "registered_at": iso(found.registered_at),
    }


def unknown(name: str) -> CliError:
    """The error for a node that is not registered."""
    actions = [
        NextAction("see which are", "devopsellence node list"),
        NextAction("or register it", f"devopsellence node register {name}"),
    ]
    return CliError("node_unknown", f"no node {name} is registered", next_actions=actions)
