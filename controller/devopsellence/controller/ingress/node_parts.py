"""Ingress parts of each node: certificates, challenges and peer routers. Pure.

A part is written when its content changes and deleted when it is empty. Parts of hosts that a node no longer serves
stay until the node has reported the new assignment or is unreachable. An unreadable certificate or assignment takes
nothing away, nor does a deleted record of a certificate that is ordered automatically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.ingress.claims import claimed_by, holders_on, hosts_in_use, told_to, wanted_on
from devopsellence.controller.ingress.peers import IngressServer, PeerRouters
from devopsellence.controller.ingress.rules import knows_assignment, reaches
from devopsellence.controller.model.actions import KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.hosts import hosts_of
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.node_progress import PlannedNode
from devopsellence.store.keys import PEERS, EnvironmentRef, Keys
from devopsellence.store.record import Record, message_of, revision_of

Certificates = Mapping[str, Record[pb.Certificate]]


def plan_parts(
    snapshot: EnvironmentSnapshot, planned_nodes: Sequence[PlannedNode], claims: Sequence[WriteAction], keys: Keys
) -> list[WriteAction]:
    """Return the writes and deletions of ingress parts, to be carried out after ``claims``.

    ``planned_nodes`` are the attached nodes with their assignments once the plan is written; other nodes have no parts.
    """
    assignments = {planned.view.name: planned.assignment for planned in planned_nodes}
    serving = {
        name: assignment
        for name, assignment in assignments.items()
        if assignment is not None and assignment.HasField("ingress")
    }
    concerned = [view for view in snapshot.nodes if view.name in serving or view.parts]
    if not concerned:
        return []
    servers = [_server(view, serving[view.name]) for view in concerned if view.name in serving]
    routers = PeerRouters(servers, snapshot.nodes)
    in_use, claimed = hosts_in_use(snapshot), claimed_by(claims)
    actions: list[WriteAction] = []
    for view in concerned:
        assignment = assignments.get(view.name)
        wanted, new = wanted_on(view, in_use, assignments), claimed.get(view.name, frozenset())
        parts = _NodeParts(snapshot.ref, view, assignment, snapshot.certificates, routers, wanted, new, keys)
        actions += view.recall("parts", (assignment, snapshot.certificates, routers.mark, wanted, new), parts.actions)
    return actions


def _server(view: NodeView, assignment: pb.Assignment) -> IngressServer:
    services = {service.name for service in assignment.services}
    return IngressServer(view, assignment.node_uid, reaches(assignment.ingress, services))


@dataclass(frozen=True, slots=True)
class _NodeParts:
    """Parts of one node with its planned assignment (None: no assignment, or unreadable).

    ``wanted_hosts``: those that the environment wants here; it may hold more, and gives these up. ``new_claims``: hosts
    claimed by the same plan.
    """

    ref: EnvironmentRef
    view: NodeView
    assignment: pb.Assignment | None
    certificates: Certificates
    routers: PeerRouters
    wanted_hosts: frozenset[str]
    new_claims: frozenset[str]
    keys: Keys

    def actions(self) -> list[WriteAction]:
        stored_parts = self.view.parts
        actions: list[WriteAction] = []
        named: set[str] = set()
        if self.assignment is not None and self.assignment.HasField("ingress"):
            wanted = self._wanted(self.assignment)
            named = {*hosts_of(self.assignment.ingress), PEERS}
            actions += [self._write(part, content) for part, content in wanted.items() if self._differs(part, content)]
            emptied = sorted(
                part for part in stored_parts if part in named and part not in wanted and self._is_known(part)
            )
            actions += [
                self._delete(part, "the part is empty", self._certificate_precondition(part)) for part in emptied
            ]
        if knows_assignment(self.view, self.assignment):
            rests_on = (self._assignment_precondition(),)
            unnamed = sorted(stored_parts.keys() - named)
            actions += [self._delete(part, "its node does not serve it", rests_on) for part in unnamed]
        return actions

    def _wanted(self, assignment: pb.Assignment) -> dict[str, pb.NodeIngress]:
        """Return the parts with content."""
        wanted: dict[str, pb.NodeIngress] = {}
        for host in hosts_of(assignment.ingress):
            record = self.certificates.get(host)
            content = self._empty(assignment, host)
            certificate = record.message if record is not None else pb.Certificate()
            if certificate is None:
                continue
            filled = _fill(content, certificate, assignment.ingress)
            if self._keep_served(content, certificate, assignment.ingress) or filled:
                wanted[host] = content
        about_node = self._about_node(assignment)
        if about_node != self._empty(assignment, PEERS):
            wanted[PEERS] = about_node
        return wanted

    def _about_node(self, assignment: pb.Assignment) -> pb.NodeIngress:
        """Return the part with everything that concerns no single host: routers, and the claims of all hosts."""
        content = self._empty(assignment, PEERS)
        content.peers.extend(self.routers.near(self.view.name))
        content.forwarders.extend(self.routers.forwarders(self.view.name))
        holders, told = holders_on(self.view), told_to(self.view)
        for host in sorted(self.wanted_hosts):
            # A claim that was lost is written again.
            is_lost = host in told.held_hosts and holders.get(host) is None
            if is_lost or host in self.new_claims or holders.get(host) == self.ref:
                content.held_hosts.append(host)
        for host in hosts_of(assignment.ingress):
            other = holders.get(host)
            if other is not None and other != self.ref:
                content.taken_hosts[host] = str(other)
            elif host in holders and other is None and host in told.taken_hosts:
                # The claim cannot be read.
                content.taken_hosts[host] = told.taken_hosts[host]
        return content

    def _keep_served(self, content: pb.NodeIngress, certificate: pb.Certificate, ingress: workload_pb2.Ingress) -> bool:
        """Keep the certificate that the node has while there is none in etcd; return whether there is one to keep.

        The record of an ordered certificate was deleted by hand, so another is being ordered.
        """
        stored = message_of(self.view.parts.get(content.part))
        if certificate.chain_pem or ingress.tls_mode != workload_pb2.Ingress.AUTO or stored is None:
            return False
        if not stored.HasField("certificate") or stored.node_uid != content.node_uid:
            return False
        content.certificate.CopyFrom(stored.certificate)
        return True

    def _empty(self, assignment: pb.Assignment, part: str) -> pb.NodeIngress:
        return pb.NodeIngress(
            node=self.view.name,
            node_uid=assignment.node_uid,
            organization=self.ref.organization,
            project=self.ref.project,
            environment=self.ref.environment,
            part=part,
        )

    def _differs(self, part: str, content: pb.NodeIngress) -> bool:
        return part not in self.view.parts or self.view.parts[part].message != content

    def _is_known(self, part: str) -> bool:
        """Return whether the certificate of the part can be read."""
        record = self.certificates.get(part)
        return record is None or record.error is None

    def _write(self, part: str, content: pb.NodeIngress) -> WriteAction:
        record = self.view.parts.get(part)
        change = KeyChange(self._key(part), revision_of(record), content)
        reason = _why(message_of(record), content)
        return WriteAction(
            WriteKind.WRITE_PART, reason, (change,), self.view.name, self._certificate_precondition(part)
        )

    def _delete(self, part: str, reason: str, rests_on: Sequence[Precondition]) -> WriteAction:
        change = KeyChange(self._key(part), self.view.parts[part].mod_revision)
        return WriteAction(WriteKind.DELETE_PART, f"{part}: {reason}", (change,), self.view.name, rests_on)

    def _key(self, part: str) -> str:
        return self.keys.ingress(self.view.name, self.ref, part)

    def _assignment_precondition(self) -> Precondition:
        stored = self.view.assignment
        key = self.keys.assignment(self.view.name, self.ref)
        return Precondition(key, revision_of(stored))

    def _certificate_precondition(self, part: str) -> tuple[Precondition, ...]:
        """Return the certificate as a precondition: an old copy must not replace a newer certificate on the nodes."""
        if part == PEERS:
            return ()
        record = self.certificates.get(part)
        return (Precondition(self.keys.certificate(self.ref, part), revision_of(record)),)


def _fill(content: pb.NodeIngress, certificate: pb.Certificate, ingress: workload_pb2.Ingress) -> bool:
    """Fill ``content`` with the needs of its node from ``certificate``; return whether there are any."""
    served = ingress.tls_mode != workload_pb2.Ingress.OFF and certificate.chain_pem and certificate.key_age
    if served:
        content.certificate.serial = certificate.serial
        content.certificate.chain_pem = certificate.chain_pem
        content.certificate.key_age = certificate.key_age
    issuance = certificate.issuance
    content.challenges.extend(sorted(issuance.challenges, key=lambda challenge: challenge.token))
    if issuance.HasField("key_request") and issuance.key_node == content.node:
        content.key_request.CopyFrom(issuance.key_request)
    return bool(served or content.challenges or content.HasField("key_request"))


def _why(before: pb.NodeIngress | None, content: pb.NodeIngress) -> str:
    """Return what has changed from ``before`` (None: absent or unreadable) to ``content``, in a sentence."""
    if content.part == PEERS:
        return f"peer routers: {', '.join(peer.node for peer in content.peers)}; hosts: {', '.join(content.held_hosts)}"
    before = before if before is not None else pb.NodeIngress()
    changed = []
    if content.certificate != before.certificate:
        serial = content.certificate.serial
        changed.append(f"its certificate is {serial}" if content.HasField("certificate") else "it has no certificate")
    if list(content.challenges) != list(before.challenges):
        changed.append(f"challenges to serve: {len(content.challenges)}")
    if content.key_request != before.key_request:
        changed.append(
            "a key is to be created" if content.HasField("key_request") else "no key is to be created any more"
        )
    return f"{content.part}: {', '.join(changed) or 'for the new registration of the node'}"
