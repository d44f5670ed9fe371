"""Whom an environment's secrets are sealed for: the attached nodes and the operators."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from devopsellence.age import is_recipient, node_recipient
from devopsellence.api.v1.stored_pb2 import Environment, Heartbeat, Node, Operator
from devopsellence.cli import errors
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import Reader, together
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Recipients:
    """Public keys by name. ``keyless`` are the nodes whose key is not known, sorted."""

    nodes: Mapping[str, str]
    operators: Mapping[str, str]
    keyless: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All nodes that were asked about, sorted."""
        return sorted({*self.nodes, *self.keyless})

    @property
    def recipients(self) -> frozenset[str]:
        """Everybody's keys."""
        return frozenset({*self.nodes.values(), *self.operators.values()})

    def keys(self, nodes: Iterable[str]) -> frozenset[str]:
        """The keys of these nodes, as far as they are known."""
        return frozenset(self.nodes[name] for name in nodes if name in self.nodes)

    def operators_among(self, recipients: Iterable[str]) -> list[str]:
        """The names of the operators who have one of these keys, sorted."""
        keys = set(recipients)
        return sorted(name for name, key in self.operators.items() if key in keys)

    def nodes_among(self, recipients: Iterable[str]) -> list[str]:
        """The names of the nodes that have one of these keys, sorted."""
        keys = set(recipients)
        return sorted(name for name, key in self.nodes.items() if key in keys)


async def attached(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """The names of the environment's nodes, sorted; none when there is no such environment yet.

    Raises:
        MalformedRecord: its record cannot be read, so nobody knows whom to seal for.
    """
    key = etcd.keys.environment(ref)
    found = await etcd.get(key)
    return sorted(set(decode(Environment, key, found.value).nodes)) if found else []


async def of_nodes(etcd: Etcd, names: Iterable[str], *, record: bool = True) -> Recipients:
    """The keys of these nodes and of all operators.

    A key that an agent's heartbeat has and its node's record has not is taken over into the record, unless ``record``
    is False. What cannot be read counts as having no key.
    """
    keys, reader, wanted = etcd.keys, Reader(etcd), sorted(set(names))
    nodes, beats, operators = await asyncio.gather(
        reader.each({name: keys.node(name) for name in wanted}, Node),
        reader.each({name: keys.heartbeat(name) for name in wanted}, Heartbeat),
        reader.under(keys.operators_prefix, Operator),
    )
    found = {name: node_recipient(node, beats.get(name)) for name, node in nodes.items()}
    if record:
        stale = [name for name, key in found.items() if key and key != nodes[name].age_recipient]
        await together(_take_over(etcd, nodes[name], found[name]) for name in stale)
    known = {name: key for name, key in found.items() if key}
    return Recipients(
        nodes=known,
        operators={
            operator.name: operator.age_recipient
            for operator in operators.values()
            if is_recipient(operator.age_recipient)
        },
        keyless=tuple(name for name in wanted if name not in known),
    )


async def _take_over(etcd: Etcd, node: Node, key: str) -> None:
    def edit(before: Node | None) -> Node:
        if before is None:
            raise errors.node_unknown(node.name)
        after = Node()
        after.CopyFrom(before)
        # Registered anew in the meantime: the key is another machine's.
        if before.uid == node.uid:
            after.age_recipient = key
        return after

    await transaction.change(etcd, etcd.keys.node(node.name), Node, edit)
