"""``env delete``: delete an environment with all its keys, once nothing of it is left on any node.

Everything that belongs to an environment by its key goes in a single transaction, under the condition that the
environment is as it was read. So a command that is killed, or runs twice at once, deletes all or nothing; and since
every write of the controller about an environment has the same condition, none of it is written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import Environment, Event, Heartbeat, Node
from devopsellence.cli.environments.remains import Remains, node_of, wait_removed
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.util.text import few, plural
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Compare, Delete, Etcd
from devopsellence.store.keys import EnvironmentRef, Keys

#: Kinds of records that belong to an environment, with the noun for one of them.
KINDS: Final = {"releases": "release", "secrets": "secret", "certificates": "certificate", "events": "event"}


@dataclass(frozen=True)
class Deletion:
    """Planned deletion of an environment: what there is of it.

    ``attached``: nodes that are to run it. ``remains``: nodes that have keys of it, attached or not. ``unreachable``:
    those of both whose agent cannot remove anything now. ``counts``: numbers of records by kind. ``revision`` is that
    of the environment's record, 0 for none.
    """

    ref: EnvironmentRef
    revision: int = 0
    attached: tuple[str, ...] = ()
    remains: frozenset[str] = frozenset()
    unreachable: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    rollout: bool = False
    controllers: int = 1

    @property
    def nothing(self) -> bool:
        """True if etcd has no key of the environment."""
        return not (self.revision or self.attached or self.remains or self.rollout or any(self.counts.values()))

    @property
    def leaves(self) -> tuple[str, ...]:
        """Nodes that have to remove it first, sorted."""
        return tuple(sorted({*self.attached, *self.remains}))

    def summary(self) -> str:
        """Return what is deleted, such as "2 releases and 1 secret"."""
        words = [plural(self.counts[kind], noun) for kind, noun in KINDS.items() if self.counts.get(kind)]
        return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "no release"

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"detached": list(self.attached), **{kind: self.counts.get(kind, 0) for kind in KINDS}}


async def plan(etcd: Etcd, ref: EnvironmentRef) -> Deletion:
    """Return the planned deletion. Writes nothing.

    Raises:
        MalformedRecord: the environment's record is unreadable, so its nodes are unknown.
    """
    keys = etcd.keys
    stored = await etcd.get(keys.environment(ref))
    attached = tuple(sorted(decode(Environment, stored.key, stored.value).nodes)) if stored else ()
    prefixes = _prefixes(keys, ref)
    remains, counts = await asyncio.gather(
        _remains(etcd, ref), asyncio.gather(*(_count(etcd, prefix) for prefix in prefixes.values()))
    )
    return Deletion(
        ref,
        revision=stored.mod_revision if stored else 0,
        attached=attached,
        remains=remains,
        unreachable=await _unreachable(etcd, remains),
        counts=dict(zip(prefixes, counts, strict=True)),
        rollout=await etcd.get(keys.rollout(ref)) is not None,
        controllers=await _count(etcd, keys.election_prefix),
    )


async def _count(etcd: Etcd, prefix: str) -> int:
    return len((await etcd.list(prefix, keys_only=True)).items)


def refusal(planned: Deletion, *, detach: bool) -> CliError | None:
    """Return the error if the environment cannot be deleted, else None; ``detach``: detach its nodes first. Pure."""
    ref = planned.ref
    if planned.nothing:
        show = NextAction("list the environments", "devopsellence env list")
        return CliError("environment_unknown", f"there is no environment {ref}", next_actions=[show])
    if planned.attached and not detach:
        return _in_use(ref, planned.attached)
    if planned.unreachable:
        first = planned.unreachable[0]
        message = f"{few(planned.unreachable)} cannot be reached, so the containers of {ref} cannot be removed there"
        actions = [
            NextAction(f"on {first}", "systemctl status devopsellence-agent"),
            NextAction("or, if the machine is lost for good", f"devopsellence node remove {first} --force"),
        ]
        return CliError("node_unreachable", message, next_actions=actions)
    if planned.remains and not planned.controllers:
        message = f"no controller is running, so nothing of {ref} would be removed from {few(planned.leaves)}"
        doctor = NextAction("check the setup", "devopsellence doctor")
        return CliError("no_controller", message, next_actions=[doctor])
    return None


def _in_use(ref: EnvironmentRef, attached: Sequence[str]) -> CliError:
    findings = [Finding("environment_in_use", f"node {node} is attached") for node in attached]
    actions = [
        NextAction("detach them, too", f"devopsellence env delete {ref} --detach"),
        NextAction("or one after another", f"devopsellence node detach {attached[0]} --env {ref}"),
    ]
    message = f"{ref} is attached to {few(attached)}, where its containers run"
    return CliError("environment_in_use", message, findings=findings, next_actions=actions)


async def delete(etcd: Etcd, planned: Deletion, tell: Callable[[str, Remains], None], seconds: float) -> None:
    """Detach the nodes, wait until they have removed everything, and delete the records; may be repeated.

    Raises:
        CliError: ``environment_in_use``: a node was attached meanwhile; ``busy``: changed by somebody else meanwhile;
            ``node_detach_timeout``. In each case the records are complete.
    """
    ref = planned.ref
    if planned.attached:
        await _detach_all(etcd, ref)
    # Also the nodes that were attached since the plan.
    remains = await _remains(etcd, ref)
    if remains:
        await wait_removed(etcd, ref, remains, tell, seconds)
    try:
        async for attempt in transaction.retrying():
            with attempt:
                await _delete_once(etcd, ref)
    except transaction.WriteConflict as error:
        again = NextAction("try again", f"devopsellence env delete {ref}")
        message = f"{ref} was changed by somebody else meanwhile; its records were not deleted"
        raise CliError("busy", message, next_actions=[again]) from error


async def _detach_all(etcd: Etcd, ref: EnvironmentRef) -> None:
    event = Event(
        severity=Event.INFO,
        code="node_detached",
        message=f"{author(etcd)} detached all nodes to delete the environment",
    )
    put = await transaction.event_put(etcd, ref, event)

    def edit(before: Environment | None) -> Environment:
        after = Environment()
        after.CopyFrom(before or transaction.new_environment(ref))
        del after.nodes[:]
        return after

    if await etcd.get(etcd.keys.environment(ref)) is not None:
        await transaction.change(etcd, etcd.keys.environment(ref), Environment, edit, also=lambda _: [put])


async def _delete_once(etcd: Etcd, ref: EnvironmentRef) -> None:
    keys = etcd.keys
    key = keys.environment(ref)
    stored = await etcd.get(key)
    if stored is not None and (nodes := sorted(decode(Environment, key, stored.value).nodes)):
        raise _in_use(ref, nodes)
    operations = [Delete(key), Delete(keys.rollout(ref)), *(Delete(prefix) for prefix in _prefixes(keys, ref).values())]
    compares = [Compare.unmodified(key, stored.mod_revision if stored else 0)]
    # Between the wait and this transaction nothing can get to a node: the controller writes under this condition.
    if not (await etcd.txn(compares, operations)).succeeded:
        raise transaction.WriteConflict


def _prefixes(keys: Keys, ref: EnvironmentRef) -> dict[str, str]:
    """Return the prefixes of :data:`KINDS`. Each ends with a slash: the keys of no other environment have it."""
    return {
        "releases": keys.releases_prefix(ref),
        "secrets": keys.secrets_prefix(ref),
        "certificates": keys.certificates_prefix(ref),
        "events": keys.events_prefix(ref),
    }


async def _remains(etcd: Etcd, ref: EnvironmentRef) -> frozenset[str]:
    """Return the nodes with keys of ``ref``, from the keys alone."""
    keys = etcd.keys
    prefixes = (keys.all_assignments_prefix, keys.all_statuses_prefix, keys.all_ingress_prefix)
    listings = await asyncio.gather(*(etcd.list(prefix, keys_only=True) for prefix in prefixes))
    return frozenset(node for listing in listings for item in listing.items if (node := node_of(keys, item.key, ref)))


async def _unreachable(etcd: Etcd, nodes: frozenset[str]) -> tuple[str, ...]:
    """Return the registered nodes without an agent. What is left of any other node the controller removes itself."""
    reader, keys = Reader(etcd), etcd.keys
    records, beats = await asyncio.gather(
        reader.get_many_under(keys.nodes_prefix, {name: keys.node(name) for name in nodes}, Node),
        reader.get_many_under(keys.heartbeats_prefix, {name: keys.heartbeat(name) for name in nodes}, Heartbeat),
    )
    return tuple(sorted(name for name, node in records.items() if name not in beats or beats[name].uid != node.uid))
