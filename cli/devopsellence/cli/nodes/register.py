"""``node register``: register a machine as a node, or replace the machine of a node."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.certificates.approval import approve_node
from devopsellence.cli.nodes.heartbeat import end_heartbeat
from devopsellence.cli.nodes.registry import attached_environments, event_puts, find
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import access
from devopsellence.cli.secrets.access import Exposure
from devopsellence.cli.store import transaction
from devopsellence.cli.store.rights import check_whole_node
from devopsellence.placement import DEFAULT_LABELS
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class NodeOptions:
    """Options of ``node register``; None for options not given."""

    name: str
    labels: Sequence[str] | None = None
    address: str | None = None


@dataclass(frozen=True)
class Registration:
    """Registered node; ``replaced`` is the uid of the replaced machine, "" if none, ``exposed`` its secrets.

    ``attached``: environments that the node is attached to already, sorted.
    """

    node: Node
    replaced: str = ""
    exposed: Mapping[EnvironmentRef, Exposure] = field(default_factory=dict)
    attached: Sequence[EnvironmentRef] = ()

    @property
    def next_steps(self) -> list[NextAction]:
        """Steps here once the agent of the node runs, in order. Pure."""
        name = self.node.name
        steps = [
            NextAction("grant it access to the secrets", f"devopsellence secret reencrypt --env {ref}")
            for ref in self.exposed
        ]
        if self.node.cordoned:
            # Also a drained node: nothing is placed there before.
            steps.append(NextAction("let it take new work again", f"devopsellence node uncordon {name}"))
        if not self.attached:
            steps.append(NextAction("attach it to an environment", f"devopsellence node attach {name}"))
        # An attached node takes up its work by itself.
        return steps or [NextAction("see it take up its work", "devopsellence node list")]


async def register_node(etcd: Etcd, options: NodeOptions) -> Registration:
    """Register a node, or return the existing node. The gateways admit the machine with the uid of the record.

    Raises:
        CliError: ``node_exists``: the node exists with different labels or a different address.
    """
    new = _new_record(options)
    await asyncio.to_thread(approve_node, etcd.settings, new)

    def edit(before: Node | None) -> Node:
        if before is None:
            return new
        if (list(before.labels), before.address) != (list(new.labels), new.address):
            raise _node_exists(before, new)
        return before

    node = await transaction.change(etcd, etcd.keys.node(options.name), Node, edit)
    return Registration(node, attached=await attached_environments(etcd, options.name))


async def replace_node(etcd: Etcd, options: NodeOptions) -> Registration:
    """Replace the machine of a node; options not given keep the old values.

    With the record the old machine loses its access, and the controller assigns its services to the new machine. After
    an interruption, this function or :func:`register_node` continues.

    Raises:
        CliError: ``node_unknown``: there is no such node. ``etcd_permission_denied``: nothing was changed.
    """
    await check_whole_node(etcd, options.name)
    before = await find(etcd, options.name)
    exposed = await access.exposures_of(etcd, options.name)
    uid, replaced = uuid.uuid4().hex, before.uid

    def edit(stored: Node | None) -> Node:
        nonlocal replaced
        base = stored or before
        if base.uid != uid:
            replaced = base.uid
        after = _new_record(options, base, uid=uid)
        approve_node(etcd.settings, after)
        return after

    did = f"replaced the machine of node {options.name}"
    attached = await attached_environments(etcd, options.name)
    puts = await event_puts(etcd, attached, options.name, "node_replaced", did)
    node = await transaction.change(etcd, etcd.keys.node(options.name), Node, edit, also=lambda _: puts)
    await end_heartbeat(etcd, options.name)
    return Registration(node, replaced, exposed, attached)


def _new_record(options: NodeOptions, before: Node | None = None, *, uid: str = "") -> Node:
    """Return the record: options, else values of the old machine; without an age recipient, set later by the agent."""
    node = Node(
        name=options.name,
        uid=uid or uuid.uuid4().hex,
        labels=options.labels
        if options.labels is not None
        else before.labels
        if before is not None
        else DEFAULT_LABELS,
        address=options.address if options.address is not None else before.address if before is not None else "",
        registered_at=transaction.now(),
    )
    if before is not None:
        node.cordoned = before.cordoned
        if before.HasField("drain"):
            node.drain.CopyFrom(before.drain)
    return node


def _node_exists(before: Node, new: Node) -> CliError:
    name = before.name
    has = f"labels {','.join(before.labels)}" + (f", address {before.address}" if before.address else "")
    actions = [
        NextAction("change its labels", f"devopsellence node label set {name} --labels {','.join(new.labels)}"),
        NextAction("or replace its machine", f"devopsellence node register {name} --replace"),
    ]
    message = f"node {name} already exists with different settings ({has})"
    return CliError("node_exists", message, next_actions=actions)
