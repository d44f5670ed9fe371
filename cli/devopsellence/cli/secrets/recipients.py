"""Recipients of an environment's secrets: public keys of the attached nodes and the operators."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from devopsellence.age import is_recipient, node_recipient
from devopsellence.api.v1.stored_pb2 import Environment, Heartbeat, Node, Operator
from devopsellence.cli.store.reader import Reader
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Recipients:
    """Public keys by name; ``keyless`` are the nodes without a known key, sorted."""

    nodes: Mapping[str, str]
    operators: Mapping[str, str]
    keyless: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All nodes, with and without a key, sorted."""
        return sorted({*self.nodes, *self.keyless})

    @property
    def recipients(self) -> frozenset[str]:
        """All public keys."""
        return frozenset({*self.nodes.values(), *self.operators.values()})

    def keys(self, nodes: Iterable[str]) -> frozenset[str]:
        """Return the known keys of ``nodes``."""
        return frozenset(self.nodes[name] for name in nodes if name in self.nodes)

    def operators_among(self, recipients: Iterable[str]) -> list[str]:
        """Return the names of the operators with a key in ``recipients``, sorted."""
        keys = set(recipients)
        return sorted(name for name, key in self.operators.items() if key in keys)

    def nodes_among(self, recipients: Iterable[str]) -> list[str]:
        """Return the names of the nodes with a key in ``recipients``, sorted."""
        keys = set(recipients)
        return sorted(name for name, key in self.nodes.items() if key in keys)


async def attached(etcd: Etcd, ref: EnvironmentRef) -> list[str]:
    """Return the names of the nodes attached to an environment, sorted; empty for a new environment.

    Raises:
        MalformedRecord: the record of the environment cannot be read.
    """
    key = etcd.keys.environment(ref)
    item = await etcd.get(key)
    return sorted(set(decode(Environment, key, item.value).nodes)) if item else []


async def readable_nodes(etcd: Etcd, names: Iterable[str]) -> list[Node]:
    """Return the readable records of the nodes ``names``, sorted by name."""
    keys = {name: etcd.keys.node(name) for name in sorted(set(names))}
    return list((await Reader(etcd).get_many(keys, Node)).values())


@dataclass(frozen=True)
class RecipientRecords:
    """Records of some nodes and of all operators. ``keys``: the public keys of these nodes, by name."""

    wanted: tuple[str, ...]
    nodes: Mapping[str, Node]
    keys: Mapping[str, str]
    operators: tuple[Operator, ...]

    def recipients(self, operators: Iterable[Operator] | None = None) -> Recipients:
        """Return the public keys; with ``operators``, those of these operators only."""
        return Recipients(
            nodes=self.keys,
            operators={one.name: one.age_recipient for one in (self.operators if operators is None else operators)},
            keyless=tuple(name for name in self.wanted if name not in self.keys),
        )


async def read_records(etcd: Etcd, names: Iterable[str]) -> RecipientRecords:
    """Read the records of the nodes ``names`` and of all operators. A node with an unreadable record has no key."""
    keys, reader, wanted = etcd.keys, Reader(etcd), sorted(set(names))
    nodes, beats, operators = await asyncio.gather(
        reader.get_many({name: keys.node(name) for name in wanted}, Node),
        reader.get_many({name: keys.heartbeat(name) for name in wanted}, Heartbeat),
        reader.get_prefix(keys.operators_prefix, Operator),
    )
    public_keys = {name: node_recipient(node, beats.get(name)) for name, node in nodes.items()}
    return RecipientRecords(
        wanted=tuple(wanted),
        nodes=nodes,
        keys={name: key for name, key in public_keys.items() if key},
        operators=tuple(operator for operator in operators.values() if is_recipient(operator.age_recipient)),
    )


async def of_nodes(etcd: Etcd, names: Iterable[str]) -> Recipients:
    """Return the public keys of the nodes ``names`` and of all operators, to be shown: ``sealing`` has those to use."""
    return (await read_records(etcd, names)).recipients()
