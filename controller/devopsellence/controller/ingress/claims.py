"""Claims: which environment a host belongs to on a node. The first to claim it keeps it until it gives it up. Pure.

A claim is a key of its own, created only if absent, on every node that an environment is attached to. A node learns of
the claims through its ingress parts. An environment wants the hosts of its releases in use, and those that a node has
still assigned; it gives a host up once the node has reported that it serves it no longer.

Docs: docs/decisions/0030-host-claims.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


def plan_claims(
    snapshot: EnvironmentSnapshot, attached: Collection[str], planned_nodes: Sequence[PlannedNode], keys: Keys
) -> list[WriteAction]:
    """Return the claims to create, and those to delete. ``planned_nodes``: as for the ingress parts."""
    assignments = {planned.view.name: planned.assignment for planned in planned_nodes}
    in_use = hosts_in_use(snapshot)
    actions: list[WriteAction] = []
    for view in snapshot.nodes:
        wanted = wanted_on(view, in_use, attached)
        if wanted.issubset(view.claims) and wanted.issuperset(view.claims):
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
    ref = snapshot.ref
    for host in sorted(wanted - view.claims.keys()):
        if not _is_first(snapshot, view, host):
            continue
        claim = pb.HostClaim(
            node=view.name,
            host=host,
            organization=ref.organization,
            project=ref.project,
            environment=ref.environment,
        )
        change = KeyChange(keys.host_claim(view.name, host), 0, claim)
        yield WriteAction(WriteKind.CLAIM_HOST, f"{host} belongs to nobody", (change,), view.name)


def _is_first(snapshot: EnvironmentSnapshot, view: NodeView, host: str) -> bool:
    """Return whether no other environment comes first for a host that nobody has claimed yet.

    It may be served already: since before there were claims, or since two deploys at the same moment. Then the node
    serves it for the first environment by name.
    """
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
