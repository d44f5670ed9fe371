"""Claims: which environment a host belongs to on a node. The first to claim it keeps it until it gives it up. Pure.

A claim is a key of its own, created only if absent, on every node that an environment is attached to. A node learns of
the claims through its ingress parts; what it was told restores a claim that was deleted or damaged by hand. An
environment wants the hosts of its releases in use, and those that a node has still assigned; it gives a host up once
the node has reported that it serves it no longer.

Docs: docs/decisions/0030-host-claims.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.ingress.rules import knows_assignment
from devopsellence.controller.model.actions import KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.hosts import assigned_hosts, holder, hosts_of
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.node_progress import PlannedNode
from devopsellence.store.keys import PEERS, EnvironmentRef, Keys
from devopsellence.store.record import message_of, revision_of


@dataclass(frozen=True, slots=True)
class HostsInUse:
    """Hosts of an environment's releases in use. ``complete``: all of these releases could be read."""

    hosts: frozenset[str]
    complete: bool


def hosts_in_use(snapshot: EnvironmentSnapshot) -> HostsInUse:
    """Return the hosts of the newest release and, unless it has settled for good, of the one to return to."""
    environment = message_of(snapshot.environment)
    if environment is None:
        return HostsInUse(frozenset(), snapshot.environment is None)
    if environment.latest_release == 0:
        return HostsInUse(frozenset(), True)
    records = [snapshot.release]
    if not _has_settled(snapshot, environment.latest_release) and snapshot.fallback_number:
        records.append(snapshot.fallback)
    releases = [message_of(record) for record in records]
    hosts = {host for release in releases if release is not None for host in hosts_of(release.ingress)}
    return HostsInUse(frozenset(hosts), None not in releases)


def wanted_on(view: NodeView, in_use: HostsInUse, attached: Collection[str]) -> frozenset[str]:
    """Return the hosts that the environment wants on a node: none where it is not attached."""
    if view.name not in attached or view.node is None:
        return frozenset()
    assigned = view.recall("assigned hosts", (), lambda: assigned_hosts(view.current_assignment))
    return in_use.hosts | assigned if assigned - in_use.hosts else in_use.hosts


def claimed_by(actions: Iterable[WriteAction]) -> dict[str, frozenset[str]]:
    """Return the hosts that ``actions`` claim, by node."""
    claimed: dict[str, set[str]] = {}
    for action in actions:
        if action.kind is WriteKind.CLAIM_HOST:
            hosts = [change.message.host for change in action.changes if isinstance(change.message, pb.HostClaim)]
            claimed.setdefault(action.node, set()).update(hosts)
    return {node: frozenset(hosts) for node, hosts in claimed.items()}


def holders_on(view: NodeView) -> dict[str, EnvironmentRef | None]:
    """Return the holders of the hosts claimed on a node; None for a claim that cannot be read."""
    return view.recall("holders", (), lambda: {host: holder(record) for host, record in view.claims.items()})


def told_to(view: NodeView) -> pb.NodeIngress:
    """Return the part that tells a node about claims, as it is stored; empty if there is none."""
    return message_of(view.parts.get(PEERS)) or pb.NodeIngress()


def plan_claims(
    snapshot: EnvironmentSnapshot, attached: Collection[str], planned_nodes: Sequence[PlannedNode], keys: Keys
) -> list[WriteAction]:
    """Return the claims to create, and those to delete. ``planned_nodes``: as for the ingress parts."""
    assignments = {planned.view.name: planned.assignment for planned in planned_nodes}
    in_use = hosts_in_use(snapshot)
    actions: list[WriteAction] = []
    for view in snapshot.nodes:
        wanted, holders = wanted_on(view, in_use, attached), holders_on(view)
        if wanted == holders.keys() and None not in holders.values():
            continue
        actions += _claims(snapshot, view, wanted, keys)
        if in_use.complete and knows_assignment(view, assignments.get(view.name)):
            actions += _given_up(snapshot.ref, view, wanted, keys)
    return actions


def _has_settled(snapshot: EnvironmentSnapshot, newest: int) -> bool:
    rollout = message_of(snapshot.rollout)
    return (
        rollout is not None
        and rollout.release == newest
        and rollout.phase == pb.Rollout.SETTLED
        and not rollout.provisional
    )


def _claims(snapshot: EnvironmentSnapshot, view: NodeView, wanted: frozenset[str], keys: Keys) -> Iterator[WriteAction]:
    ref, told = snapshot.ref, told_to(view)
    for host in sorted(wanted):
        record = view.claims.get(host)
        if holder(record) is not None:
            continue
        was_held = host in told.held_hosts
        if not was_held and (record is not None or not _is_first(snapshot, view, host)):
            continue
        claim = pb.HostClaim(
            node=view.name,
            host=host,
            organization=ref.organization,
            project=ref.project,
            environment=ref.environment,
        )
        change = KeyChange(keys.host_claim(view.name, host), revision_of(record), claim)
        reason = f"the claim of {host} was lost" if was_held else f"{host} belongs to nobody"
        yield WriteAction(WriteKind.CLAIM_HOST, reason, (change,), view.name, warning=was_held)


def _is_first(snapshot: EnvironmentSnapshot, view: NodeView, host: str) -> bool:
    """Return whether no other environment comes first for a host that nobody has claimed yet.

    It may be served already: since before there were claims, or since two deploys at the same moment. Then the node
    serves it for the first environment by name.
    """
    if host in told_to(view).taken_hosts:
        # A claim that has gone is its holder's to write again, if it is wanted. The node is told first.
        return False
    served = snapshot.served_hosts.get(view.name, {})
    others = [ref for ref, hosts in served.items() if ref != snapshot.ref and host in hosts]
    if host in assigned_hosts(view.current_assignment):
        return all(snapshot.ref < other for other in others)
    return not others


def _given_up(ref: EnvironmentRef, view: NodeView, wanted: frozenset[str], keys: Keys) -> Iterator[WriteAction]:
    for host, record in sorted(view.claims.items()):
        if host in wanted or holder(record) != ref:
            continue
        part = view.parts.get(PEERS)
        message = message_of(part)
        if part is not None and (message is None or host in message.held_hosts):
            # The node is told first. Otherwise it could find two holders if the host comes back.
            continue
        rests_on = (
            Precondition(keys.assignment(view.name, ref), revision_of(view.assignment)),
            Precondition(keys.ingress(view.name, ref, PEERS), revision_of(part)),
        )
        change = KeyChange(record.key, record.mod_revision)
        reason = f"{host} is given up: no release in use has it here"
        yield WriteAction(WriteKind.RELEASE_HOST, reason, (change,), view.name, rests_on)
