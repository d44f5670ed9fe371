"""Which parts of an environment's ingress each node is given: certificates, challenges, other nodes' routers. Pure.

A part is written when it should say something else, and deleted when there is nothing to say any more. What a node is
not to serve any more is left to it until it knows that: until it has reported that assignment, or nobody is there to
report. A certificate or an assignment that cannot be read takes nothing away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.ingress.peers import PeerRouters
from devopsellence.controller.ingress.rules import hosts_of
from devopsellence.controller.model.actions import KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.node_progress import PlannedNode
from devopsellence.store.keys import PEERS, EnvironmentRef, Keys
from devopsellence.store.record import Record, message_of, revision_of

Certificates = Mapping[str, Record[pb.Certificate]]


def plan_parts(world: EnvironmentSnapshot, standings: Sequence[PlannedNode], keys: Keys) -> list[WriteAction]:
    """What to write and delete, so that each node has the parts that it should have.

    ``standings``: the attached nodes with what they should run once the plan is written; other nodes should have none.
    """
    standing_at = {standing.view.name: standing.assignment for standing in standings}
    serving = {name: one.node_uid for name, one in standing_at.items() if one is not None and one.HasField("ingress")}
    concerned = [view for view in world.nodes if view.name in serving or view.parts]
    if not concerned:
        return []
    routers = PeerRouters(((view, serving[view.name]) for view in concerned if view.name in serving), world.nodes)
    actions: list[WriteAction] = []
    for view in concerned:
        assignment = standing_at.get(view.name)
        work_out = partial(_actions, world, view, assignment, routers, keys)
        actions += view.recall("parts", (assignment, world.certificates, routers.mark), work_out)
    return actions


def _actions(
    world: EnvironmentSnapshot, view: NodeView, assignment: pb.Assignment | None, routers: PeerRouters, keys: Keys
) -> list[WriteAction]:
    return _NodeParts(world.ref, view, assignment, world.certificates, routers, keys).actions()


@dataclass(frozen=True, slots=True)
class _NodeParts:
    """One node, with what it should run (None: nothing, or that cannot be read)."""

    ref: EnvironmentRef
    view: NodeView
    assignment: pb.Assignment | None
    certificates: Certificates
    routers: PeerRouters
    keys: Keys

    def actions(self) -> list[WriteAction]:
        found = self.view.parts
        actions: list[WriteAction] = []
        named: set[str] = set()
        if self.assignment is not None and self.assignment.HasField("ingress"):
            wanted = self._wanted(self.assignment)
            named = {*hosts_of(self.assignment.ingress), PEERS}
            actions += [self._write(part, made) for part, made in wanted.items() if self._differs(part, made)]
            silent = sorted(part for part in found if part in named and part not in wanted and self._is_known(part))
            actions += [self._delete(part, "there is nothing to say about it", self._basis_of(part)) for part in silent]
        if self._may_take():
            rests_on = (self._basis_of_assignment(),)
            unnamed = sorted(found.keys() - named)
            actions += [self._delete(part, "its node does not serve it", rests_on) for part in unnamed]
        return actions

    def _wanted(self, assignment: pb.Assignment) -> dict[str, pb.NodeIngress]:
        """The parts that say something."""
        wanted: dict[str, pb.NodeIngress] = {}
        for host in hosts_of(assignment.ingress):
            record = self.certificates.get(host)
            made = self._empty(assignment, host)
            if record is not None and record.message is not None and _fill(made, record.message, assignment.ingress):
                wanted[host] = made
        if near := self.routers.near(self.view.name):
            wanted[PEERS] = self._empty(assignment, PEERS)
            wanted[PEERS].peers.extend(near)
        return wanted

    def _empty(self, assignment: pb.Assignment, part: str) -> pb.NodeIngress:
        return pb.NodeIngress(
            node=self.view.name,
            node_uid=assignment.node_uid,
            organization=self.ref.organization,
            project=self.ref.project,
            environment=self.ref.environment,
            part=part,
        )

    def _differs(self, part: str, made: pb.NodeIngress) -> bool:
        return part not in self.view.parts or self.view.parts[part].message != made

    def _is_known(self, part: str) -> bool:
        """Whether what it is made from can be read."""
        record = self.certificates.get(part)
        return record is None or record.error is None

    def _may_take(self) -> bool:
        """Whether it knows all that it should run, so that it can do without what that does not name."""
        stored, status = self.view.assignment, self.view.status
        if stored is None:
            return self.assignment is None
        if stored.message is None or stored.message is not self.assignment:
            return False
        reported = message_of(status)
        told = reported is not None and (reported.node_uid, reported.generation) == (
            stored.message.node_uid,
            stored.message.generation,
        )
        return told or self.view.heartbeat is None

    def _write(self, part: str, made: pb.NodeIngress) -> WriteAction:
        record = self.view.parts.get(part)
        change = KeyChange(self._key(part), revision_of(record), made)
        reason = _why(message_of(record), made)
        return WriteAction(WriteKind.WRITE_PART, reason, (change,), self.view.name, self._basis_of(part))

    def _delete(self, part: str, reason: str, rests_on: Sequence[Precondition]) -> WriteAction:
        change = KeyChange(self._key(part), self.view.parts[part].mod_revision)
        return WriteAction(WriteKind.DELETE_PART, f"{part}: {reason}", (change,), self.view.name, rests_on)

    def _key(self, part: str) -> str:
        return self.keys.ingress(self.view.name, self.ref, part)

    def _basis_of_assignment(self) -> Precondition:
        stored = self.view.assignment
        key = self.keys.assignment(self.view.name, self.ref)
        return Precondition(key, revision_of(stored))

    def _basis_of(self, part: str) -> tuple[Precondition, ...]:
        """The certificate: an old copy of it must not replace a newer one on the nodes."""
        if part == PEERS:
            return ()
        record = self.certificates.get(part)
        return (Precondition(self.keys.certificate(self.ref, part), revision_of(record)),)


def _fill(made: pb.NodeIngress, certificate: pb.Certificate, ingress: workload_pb2.Ingress) -> bool:
    """Put into ``made`` what its node needs of ``certificate``; whether that is anything."""
    served = ingress.tls_mode != workload_pb2.Ingress.OFF and certificate.chain_pem and certificate.key_age
    if served:
        made.certificate.serial = certificate.serial
        made.certificate.chain_pem = certificate.chain_pem
        made.certificate.key_age = certificate.key_age
    issuance = certificate.issuance
    made.challenges.extend(sorted(issuance.challenges, key=lambda one: one.token))
    if issuance.HasField("key_request") and issuance.key_node == made.node:
        made.key_request.CopyFrom(issuance.key_request)
    return bool(served or made.challenges or made.HasField("key_request"))


def _why(before: pb.NodeIngress | None, made: pb.NodeIngress) -> str:
    """What ``made`` says that ``before`` (None: there was nothing that can be read) did not."""
    if made.part == PEERS:
        return f"it can turn to the routers of {', '.join(peer.node for peer in made.peers)}"
    before = before if before is not None else pb.NodeIngress()
    changed = []
    if made.certificate != before.certificate:
        serial = made.certificate.serial
        changed.append(f"its certificate is {serial}" if made.HasField("certificate") else "it has no certificate")
    if list(made.challenges) != list(before.challenges):
        changed.append(f"challenges to answer: {len(made.challenges)}")
    if made.key_request != before.key_request:
        changed.append("a key is to be made" if made.HasField("key_request") else "no key is to be made any more")
    return f"{made.part}: {', '.join(changed) or 'as this registration of the node has it'}"
