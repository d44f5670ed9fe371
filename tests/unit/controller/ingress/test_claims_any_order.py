"""Whatever operators, agents and dying controllers do to environments that share nodes: a host stays with the
environment that holds it, every host that is given up becomes free, and a node serves a host for one environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.ingress.claims import plan_claims
from devopsellence.controller.ingress.node_parts import plan_parts
from devopsellence.controller.model.actions import WriteAction, WriteKind
from devopsellence.controller.model.hosts import assigned_hosts, holder
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.node_progress import PlannedNode
from devopsellence.nodeagent.envoy.model import RoutingConfig
from devopsellence.nodeagent.ingress.node_ingress_state import PartState, ingress_inputs
from devopsellence.nodeagent.ingress.routing import resolve_host_conflicts
from devopsellence.store.keys import PEERS, EnvironmentRef, Keys
from devopsellence.store.record import Record, message_of, revision_of

KEYS = Keys("/t/")
# Claims of other nodes and of other hosts play no part in a decision, so few of both say as much as many.
NODES = ("n1",)
HOSTS = ("a.example.com", "b.example.com")
REFS = tuple(EnvironmentRef("acme", name, "production") for name in ("first", "second"))
nodes, hosts, refs = st.sampled_from(NODES), st.sampled_from(HOSTS), st.sampled_from(REFS)


@dataclass
class Environment:
    """An environment as the operator and the rollout leave it."""

    attached: set[str] = field(default_factory=set)
    releases: list[frozenset[str]] = field(default_factory=list)
    settled: int = 0
    #: Number of the release that nodes are to run; 0: the newest.
    target: int = 0
    deleted: bool = False

    @property
    def running(self) -> int:
        return self.target or len(self.releases)


class AnyOrder(RuleBasedStateMachine):
    """Environments that share a node and want the same hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 0
        self.records: dict[str, Record[Message]] = {}
        self.environments = {ref: Environment() for ref in REFS}
        #: What each agent has read, at different moments: hosts of the assignment, and the part.
        self.read_hosts: dict[tuple[str, EnvironmentRef], frozenset[str]] = {}
        self.read_part: dict[tuple[str, EnvironmentRef], pb.NodeIngress] = {}

    @initialize(before=st.dictionaries(refs, st.sets(hosts, min_size=1)))
    def begin(self, before: dict[EnvironmentRef, set[str]]) -> None:
        """Environments of a version without claims serve the same hosts."""
        for ref, served in before.items():
            self.environments[ref].attached = {*NODES}
            self.deploy(ref, served)
            for node in NODES:
                self.assign(ref, node)
                self.agent_reads_assignment(ref, node)

    # Operators

    @rule(ref=refs, served=st.sets(hosts))
    def deploy(self, ref: EnvironmentRef, served: set[str]) -> None:
        environment = self.environments[ref]
        environment.deleted, environment.target = False, 0
        environment.releases.append(frozenset(served))

    @rule(ref=refs, names=st.sets(nodes))
    def attach(self, ref: EnvironmentRef, names: set[str]) -> None:
        self.environments[ref].attached = set(names)

    @rule(ref=refs)
    def delete(self, ref: EnvironmentRef) -> None:
        self.environments[ref] = Environment(deleted=True)

    # Rollouts

    @rule(ref=refs)
    def settle(self, ref: EnvironmentRef) -> None:
        environment = self.environments[ref]
        if environment.releases and all(self.has_settled(ref, node) for node in environment.attached):
            environment.settled = environment.running

    @rule(ref=refs)
    def fail(self, ref: EnvironmentRef) -> None:
        environment = self.environments[ref]
        if 0 < environment.settled < len(environment.releases):
            environment.target = environment.settled

    @rule(ref=refs, node=nodes)
    def assign(self, ref: EnvironmentRef, node: str) -> None:
        """The rest of the plan: an assignment, a tombstone, or the deletion of one that was carried out."""
        environment, stored = self.environments[ref], self.assignment(ref, node)
        key, generation = KEYS.assignment(node, ref), self.generation(ref, node) + 1
        if node in environment.attached and environment.releases and not environment.deleted:
            served = environment.releases[environment.running - 1]
            ingress = workload_pb2.Ingress(hosts=sorted(served)) if served else None
            wanted = pb.Assignment(
                node=node, node_uid=node, generation=generation, release=environment.running, ingress=ingress
            )
            if stored is None or (stored.removed, stored.release) != (False, wanted.release):
                self.put(key, wanted)
        elif stored is not None and not stored.removed:
            self.put(key, pb.Assignment(node=node, node_uid=node, generation=generation, removed=True))
        elif stored is not None and self.knows(ref, node):
            self.records.pop(key)

    # Agents

    @rule(ref=refs, node=nodes)
    def agent_reads_assignment(self, ref: EnvironmentRef, node: str) -> None:
        assignment = self.assignment(ref, node)
        self.read_hosts[node, ref] = assigned_hosts(assignment)
        if assignment is not None:
            self.put(KEYS.status(node, ref), pb.AssignmentStatus(node_uid=node, generation=assignment.generation))

    @rule(ref=refs, node=nodes)
    def converge(self, ref: EnvironmentRef, node: str) -> None:
        self.assign(ref, node)
        self.agent_reads_assignment(ref, node)

    @rule(ref=refs, node=nodes)
    def agent_reads_part(self, ref: EnvironmentRef, node: str) -> None:
        part = self.message(KEYS.ingress(node, ref, PEERS))
        self.read_part[node, ref] = part if isinstance(part, pb.NodeIngress) else pb.NodeIngress()

    # The controller

    @rule(ref=refs, actions=st.integers(0, 6))
    def die_in_the_middle(self, ref: EnvironmentRef, actions: int) -> None:
        self.reconcile(ref, actions)

    def reconcile(self, ref: EnvironmentRef, actions: int | None = None) -> None:
        """Plan and carry out, until the controller dies after ``actions``."""
        snapshot = self.snapshot(ref)
        attached = self.environments[ref].attached
        planned = [
            PlannedNode(view, message_of(view.assignment))
            for view in snapshot.nodes
            if view.name in attached and snapshot.environment is not None
        ]
        names = frozenset(planned_node.view.name for planned_node in planned)
        claims = plan_claims(snapshot, names, planned, KEYS)
        todo = [*claims, *plan_parts(snapshot, planned, claims, KEYS)]
        for action in todo[:actions]:
            self.carry_out(ref, action)

    @rule()
    def come_to_rest(self) -> None:
        for _ in range(20):
            before = {key: record.message for key, record in self.records.items()}
            for ref in REFS:
                for node in NODES:
                    self.assign(ref, node)
                    self.agent_reads_assignment(ref, node)
                    self.agent_reads_part(ref, node)
                self.reconcile(ref)
            if {key: record.message for key, record in self.records.items()} == before:
                break
        else:
            raise AssertionError("does not come to rest")
        for node in NODES:
            for host in HOSTS:
                wanting = {ref for ref in REFS if self.wants(ref, node, host)}
                held_by = self.holder(node, host)
                assert held_by in wanting if wanting else held_by is None
                serving = {ref for ref in wanting if host in assigned_hosts(self.assignment(ref, node))}
                assert self.served_by(node, host) == (held_by if held_by in serving else None)

    @invariant()
    def holder_is_served(self) -> None:
        """A node that knows of the claim serves the host for its holder, whoever else has it."""
        for node in NODES:
            for host in HOSTS:
                held_by = self.holder(node, host)
                if held_by is None or host not in self.read_hosts.get((node, held_by), ()):
                    continue
                if host in self.read_part.get((node, held_by), pb.NodeIngress()).held_hosts:
                    assert self.served_by(node, host) == held_by

    def carry_out(self, ref: EnvironmentRef, action: WriteAction) -> None:
        compared = [
            *((change.key, change.replaces) for change in action.changes),
            *((basis.key, basis.mod_revision) for basis in action.rests_on),
        ]
        assert all(revision_of(self.records.get(key)) == revision for key, revision in compared), action
        for change in action.changes:
            if action.kind is WriteKind.CLAIM_HOST:
                node, host = KEYS.parse_host_claim(change.key)
                assigned = [other for other in REFS if host in assigned_hosts(self.assignment(other, node))]
                assert not assigned or ref == min(assigned), "who serves a host that nobody holds keeps it"
            elif action.kind is WriteKind.RELEASE_HOST:
                node, host = KEYS.parse_host_claim(change.key)
                assert self.holder(node, host) == ref
                assert not self.wants(ref, node, host)
            if change.message is None:
                self.records.pop(change.key)
            else:
                self.put(change.key, change.message)

    # What is there

    def put(self, key: str, message: Message) -> None:
        self.revision += 1
        self.records[key] = Record(key, message, None, self.revision, self.revision)

    def message(self, key: str) -> Message | None:
        return message_of(self.records.get(key))

    def assignment(self, ref: EnvironmentRef, node: str) -> pb.Assignment | None:
        found = self.message(KEYS.assignment(node, ref))
        return found if isinstance(found, pb.Assignment) else None

    def generation(self, ref: EnvironmentRef, node: str) -> int:
        stored, status = self.assignment(ref, node), self.message(KEYS.status(node, ref))
        reported = status.generation if isinstance(status, pb.AssignmentStatus) else 0
        return max(stored.generation if stored is not None else 0, reported)

    def knows(self, ref: EnvironmentRef, node: str) -> bool:
        stored, status = self.assignment(ref, node), self.message(KEYS.status(node, ref))
        return stored is not None and isinstance(status, pb.AssignmentStatus) and stored.generation == status.generation

    def has_settled(self, ref: EnvironmentRef, node: str) -> bool:
        stored = self.assignment(ref, node)
        return self.knows(ref, node) and stored is not None and stored.release == self.environments[ref].running

    def holder(self, node: str, host: str) -> EnvironmentRef | None:
        found = self.message(KEYS.host_claim(node, host))
        return holder(Record("", found, None, 1, 1)) if isinstance(found, pb.HostClaim) else None

    def wants(self, ref: EnvironmentRef, node: str, host: str) -> bool:
        environment = self.environments[ref]
        if environment.deleted or node not in environment.attached:
            return False
        in_use = environment.releases[-1:]
        if environment.settled != len(environment.releases):
            in_use += environment.releases[environment.settled - 1 : environment.settled]
        return any(host in served for served in in_use) or host in assigned_hosts(self.assignment(ref, node))

    def served_by(self, node: str, host: str) -> EnvironmentRef | None:
        """Return the environment for which the agent serves a host, by what it has read."""
        configs = []
        for ref in REFS:
            part = self.read_part.get((node, ref), pb.NodeIngress())
            inputs = ingress_inputs({PEERS: PartState(part, part)})
            named = tuple(sorted(self.read_hosts.get((node, ref), frozenset()) - inputs.taken_hosts.keys()))
            configs.append(RoutingConfig(ref, named, (), (), held_hosts=inputs.held_hosts))
        resolved, _ = resolve_host_conflicts(configs)
        found = [config.ref for config in resolved.configs if host in config.hosts]
        assert len(found) <= 1
        return found[0] if found else None

    def snapshot(self, ref: EnvironmentRef) -> EnvironmentSnapshot:
        environment = self.environments[ref]
        newest, settled = len(environment.releases), environment.settled
        record = pb.Environment(nodes=sorted(environment.attached), latest_release=newest)
        rollout = pb.Rollout(
            release=newest,
            target=environment.target,
            last_settled=settled if settled < newest else 0,
            phase=pb.Rollout.SETTLED if settled == newest else pb.Rollout.PROGRESSING,
        )

        def release(number: int) -> Record[pb.Release] | None:
            if not 0 < number <= newest:
                return None
            served = workload_pb2.Ingress(hosts=sorted(environment.releases[number - 1]))
            return Record("", pb.Release(number=number, ingress=served), None, 1, 1)

        return EnvironmentSnapshot(
            ref,
            None if environment.deleted else Record("", record, None, 1, 1),
            release(newest),
            Record("", rollout, None, 1, 1),
            [self.view(ref, node) for node in NODES],
            fallback=release(settled) if settled < newest else None,
            served_hosts={
                node: {other: assigned_hosts(self.assignment(other, node)) for other in REFS} for node in NODES
            },
        )

    def view(self, ref: EnvironmentRef, node: str) -> NodeView:
        record = self.records.get(KEYS.ingress(node, ref, PEERS))
        return NodeView(
            node,
            Record("", pb.Node(name=node, uid=node), None, 1, 1),
            Record("", pb.Heartbeat(node=node, uid=node), None, 1, 1),
            self.records.get(KEYS.assignment(node, ref)),  # type: ignore[arg-type]
            self.records.get(KEYS.status(node, ref)),  # type: ignore[arg-type]
            {PEERS: record} if record is not None else {},  # type: ignore[dict-item]
            {
                host: claim  # type: ignore[misc]
                for host in HOSTS
                if (claim := self.records.get(KEYS.host_claim(node, host))) is not None
            },
        )


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestClaimsAnyOrder = AnyOrder.TestCase
