"""Whatever happens to an ingress, in whatever order, and wherever the controller dies: the nodes end up with the parts
that they should have, and lose none before they know that they are not to serve it."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import WriteAction, WriteKind
from devopsellence.controller.model.hosts import hosts_of
from devopsellence.store.record import Record, message_of
from tests.unit.controller.builders import KEYS, REF, Store, service
from tests.unit.controller.ingress_builders import WEB, beat, ingress, put_certificate

NODES = ("n1", "n2", "n3")
HOSTS = ("a.example.com", "b.example.com")
API = service("api", "worker")
nodes, hosts = st.sampled_from(NODES), st.sampled_from(HOSTS)


class AnyOrder(RuleBasedStateMachine):
    """An operator, agents, whoever obtains certificates, nonsense, and a controller that dies after any action."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.number = 0

    @initialize()
    def begin(self) -> None:
        for name in NODES:
            self.store.add_node(name, "web", "worker")
            beat(self.store, name, address=f"{name}:7444")
        self.store.set_environment(*NODES)
        self.deploy({*HOSTS}, ["web"])

    # The operator

    @rule(served=st.sets(hosts), to=st.sampled_from([["web"], ["web", "api"]]))
    def deploy(self, served: set[str], to: list[str]) -> None:
        self.number += 1
        self.store.deploy(self.number, WEB, API, ingress=ingress(*sorted(served), to=to) if served else None)

    @rule(names=st.sets(nodes))
    def attach(self, names: set[str]) -> None:
        self.store.set_environment(*names, latest=self.number)

    @rule(name=nodes, labels=st.sampled_from([("web",), ("web", "worker"), ("worker",)]), uid=st.sampled_from("ab"))
    def register(self, name: str, labels: tuple[str, ...], uid: str) -> None:
        self.store.add_node(name, *labels, uid=uid)
        beat(self.store, name, address=f"{name}:7444", uid=uid)

    @rule(name=nodes)
    def unregister(self, name: str) -> None:
        self.store.delete(KEYS.node(name))

    @rule()
    def delete_environment(self) -> None:
        self.store.delete(KEYS.environment(REF))

    # Certificates

    @rule(host=hosts, serial=st.sampled_from(["", "aa", "bb"]))
    def certify(self, host: str, serial: str) -> None:
        put_certificate(self.store, host, serial)

    @rule(host=hosts, node=nodes)
    def issue(self, host: str, node: str) -> None:
        challenge = pb.Challenge(token="t", key_authorization="t.thumb")
        put_certificate(
            self.store, host, "aa", challenges=[challenge], key_request=pb.KeyRequest(id="k"), key_node=node
        )

    @rule(host=hosts)
    def lose_a_certificate(self, host: str) -> None:
        self.store.delete(KEYS.certificate(REF, host))

    # The agents

    @rule(name=nodes)
    def report(self, name: str) -> None:
        if self.store.assignment(name) is not None:
            self.store.report(name)

    @rule(name=nodes)
    def become_unreachable(self, name: str) -> None:
        self.store.delete(KEYS.heartbeat(name))

    @rule(name=nodes, address=st.sampled_from(["", "x:7444"]))
    def move(self, name: str, address: str) -> None:
        found = self.store.records.get(KEYS.node(name))
        if found is not None and found.message is not None:
            beat(self.store, name, address=address, uid=found.message.uid)

    # Nonsense, and what is lost

    @rule(name=nodes, host=hosts, part=st.sampled_from([*HOSTS, "+peers"]), what=st.integers(0, 5))
    def spoil(self, name: str, host: str, part: str, what: int) -> None:
        keys = [
            KEYS.certificate(REF, host),
            KEYS.ingress(name, REF, part),
            KEYS.assignment(name, REF),
            KEYS.node(name),
            KEYS.heartbeat(name),
            KEYS.environment(REF),
        ]
        self.store.garbage(keys[what])

    @rule(name=nodes, part=st.sampled_from([*HOSTS, "+peers"]))
    def lose_a_part(self, name: str, part: str) -> None:
        self.store.delete(KEYS.ingress(name, REF, part))

    # The controller

    @rule(actions=st.integers(0, 4))
    def die_in_the_middle(self, actions: int) -> None:
        planned = self.store.plan()
        for action in planned.actions[:actions]:
            self.check_that_it_knows(action)
            self.store.carry_out(action)
        self.store.stopwatch = None

    @rule()
    def reconcile(self) -> None:
        environment = self.store.records.get(KEYS.environment(REF))
        before = {name: self.store.parts(name) for name in NODES}
        for _ in range(10):
            planned = self.store.plan()
            for action in planned.actions:
                self.check_that_it_knows(action)
                self.store.carry_out(action)
            self.store.stopwatch = planned.stopwatch
            if not planned.actions:
                break
        else:
            raise AssertionError(f"does not come to rest: {planned.actions}")
        for name in NODES:
            if environment is not None and environment.error is not None:
                assert self.store.parts(name) == before[name], "an environment that cannot be read changes nothing"
            else:
                self.check(name, before[name])

    def check_that_it_knows(self, action: WriteAction) -> None:
        """Nothing is taken from a node that is there and may still serve it."""
        if action.kind is not WriteKind.DELETE_PART or KEYS.heartbeat(action.node) not in self.store.records:
            return
        _, _, part = KEYS.parse_ingress(action.changes[0].key)
        record = self.store.records.get(KEYS.assignment(action.node, REF))
        if record is None:
            return
        assert record.message is not None, "an assignment that cannot be read takes nothing away"
        assert not record.message.removed
        if part in (*hosts_of(record.message.ingress), "+peers") and record.message.HasField("ingress"):
            certificate = self.store.records.get(KEYS.certificate(REF, part)) if part in HOSTS else None
            assert certificate is None or (certificate.message is not None and not certificate.message.serial)
            return
        status = self.store.records[KEYS.status(action.node, REF)].message
        assert status is not None
        assert status.generation == record.message.generation

    def check(self, name: str, before: Mapping[str, Record[pb.NodeIngress]]) -> None:
        """``before``: the parts of the node when the controller began."""
        record = self.store.records.get(KEYS.assignment(name, REF))
        found = {part: record.message for part, record in self.store.parts(name).items()}
        if record is None:
            assert found == {}
            return
        if record.message is None or record.message.removed or name not in self.store.attached():
            return
        assignment = record.message
        for host in hosts_of(assignment.ingress):
            self.check_host(name, host, found.get(host), message_of(before.get(host)))
        if assignment.HasField("ingress"):
            told_of = found.get("+peers")
            others = {peer.node for peer in told_of.peers} if told_of is not None else set()
            assert name not in others
            assert others <= {name for name in NODES if self.serves(name)}
            answering = {one for one in NODES if one != name and self.serves(one) and self.answers(one)}
            assert answering <= others
        status = self.store.records.get(KEYS.status(name, REF))
        said = message_of(status)
        told = said is not None and (said.generation, said.node_uid) == (
            assignment.generation,
            assignment.node_uid,
        )
        if told or KEYS.heartbeat(name) not in self.store.records:
            assert found.keys() <= {*hosts_of(assignment.ingress), "+peers"}
            assert assignment.HasField("ingress") or not found

    def check_host(self, name: str, host: str, part: pb.NodeIngress | None, before: pb.NodeIngress | None) -> None:
        record = self.store.records.get(KEYS.certificate(REF, host))
        if record is not None and record.message is None:
            return
        certificate = record.message if record is not None and record.message is not None else pb.Certificate()
        assignment = self.store.assignment(name)
        assert assignment is not None
        # Without a certificate to serve, a node keeps the one that it has until another is issued.
        kept = before is not None and before.node_uid == assignment.node_uid and before.certificate.serial
        serial = certificate.serial or kept
        assert (part is not None) == bool(serial)
        if part is not None:
            assert part.certificate.serial == serial
            assert part.node_uid == assignment.node_uid
            assert part.HasField("key_request") == (certificate.issuance.key_node == name)
            assert list(part.challenges) == list(certificate.issuance.challenges)

    def serves(self, name: str) -> bool:
        assignment = self.store.assignment(name)
        return name in self.store.attached() and assignment is not None and assignment.HasField("ingress")

    def answers(self, name: str) -> bool:
        """Return whether the heartbeat of the node has a router address."""
        beat, assignment = self.store.records.get(KEYS.heartbeat(name)), self.store.assignment(name)
        message = message_of(beat)
        return (
            message is not None
            and assignment is not None
            and message.uid == assignment.node_uid
            and bool(message.router_address)
        )


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestIngressAnyOrder = AnyOrder.TestCase
