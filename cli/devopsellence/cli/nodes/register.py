"""``node register``: a machine becomes a node; or takes the name of one that it replaces."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.nodes import etcd_access
from devopsellence.cli.nodes.registry import attached_environments, event_puts, find
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import access
from devopsellence.cli.secrets.access import Exposure
from devopsellence.cli.store import transaction
from devopsellence.placement import DEFAULT_LABELS
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class NodeOptions:
    """What a person said of the machine; None where they said nothing."""

    name: str
    labels: Sequence[str] | None = None
    address: str | None = None


@dataclass(frozen=True)
class Registration:
    """The node. ``replaced``: the uid of the machine before, "" where there was none, and what it could open."""

    node: Node
    replaced: str = ""
    exposed: Mapping[EnvironmentRef, Exposure] = field(default_factory=dict)


async def register(etcd: Etcd, said: NodeOptions, *, grant: bool) -> Registration:
    """The node of that name, made if there is none yet; with ``grant`` its certificate is let into etcd.

    Raises:
        CliError: ``node_exists``: there is one with other labels or another address.
    """
    new = _made(said)

    def edit(before: Node | None) -> Node:
        if before is None:
            return new
        if (list(before.labels), before.address) != (list(new.labels), new.address):
            raise _is_another(before, new)
        return before

    node = await transaction.change(etcd, etcd.keys.node(said.name), Node, edit)
    if grant:
        await etcd_access.grant_access(etcd, node)
    return Registration(node)


async def replace(etcd: Etcd, said: NodeOptions, *, grant: bool) -> Registration:
    """Another machine under the name of one that is registered; what is said of neither stays as it was.

    The machine before is shut out first; everything that was assigned to it is assigned to the new one as soon as the
    controller has seen this. Broken off anywhere, this or :func:`register` goes on from there.

    Raises:
        CliError: ``node_unknown``: there is none to replace. ``etcd_permission_denied``: only root may.
    """
    before = await find(etcd, said.name)
    knew = await access.exposures_of(etcd, said.name)
    if grant:
        await etcd_access.revoke_access(
            etcd, said.name, before.uid, f"devopsellence node register {said.name} --replace"
        )
    uid, replaced = uuid.uuid4().hex, before.uid

    def edit(found: Node | None) -> Node:
        nonlocal replaced
        base = found or before
        if base.uid != uid:
            replaced = base.uid
        return _made(said, base, uid=uid)

    did = f"put another machine in the place of node {said.name}"
    puts = await event_puts(etcd, await attached_environments(etcd, said.name), said.name, "node_replaced", did)
    node = await transaction.change(etcd, etcd.keys.node(said.name), Node, edit, also=lambda _: puts)
    if grant and replaced != before.uid:
        # Somebody else was a moment faster.
        await etcd_access.revoke_access(etcd, said.name, replaced, f"devopsellence node register {said.name} --replace")
    await etcd_access.end_heartbeat(etcd, said.name, uid)
    if grant:
        await etcd_access.grant_access(etcd, node)
    return Registration(node, replaced, knew)


def _made(said: NodeOptions, before: Node | None = None, *, uid: str = "") -> Node:
    """The record: what was said, else what the machine before had. Its age recipient is its own, and not known yet."""
    node = Node(
        name=said.name,
        uid=uid or uuid.uuid4().hex,
        labels=said.labels if said.labels is not None else before.labels if before is not None else DEFAULT_LABELS,
        address=said.address if said.address is not None else before.address if before is not None else "",
        registered_at=transaction.now(),
    )
    if before is not None:
        node.cordoned = before.cordoned
        if before.HasField("drain"):
            node.drain.CopyFrom(before.drain)
    return node


def _is_another(before: Node, new: Node) -> CliError:
    name = before.name
    has = f"labels {','.join(before.labels)}" + (f", address {before.address}" if before.address else "")
    actions = [
        NextAction("change its labels", f"devopsellence node label set {name} --labels {','.join(new.labels)}"),
        NextAction("or put another machine in its place", f"devopsellence node register {name} --replace"),
    ]
    message = f"there is a node {name} already, which is another ({has})"
    return CliError("node_exists", message, next_actions=actions)
