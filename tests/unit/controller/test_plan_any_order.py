"""Whatever happens, in whatever order, and wherever the controller dies: it comes to rest where it should."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devopsellence.api.v1 import stored_pb2 as pb
from tests.unit.controller.builders import KEYS, REF, Store, crashed, service

NODES = ("n1", "n2", "n3")
SERVICES = {"web": "web", "redis": "worker", "queue": "worker"}
nodes = st.sampled_from(NODES)


class AnyOrder(RuleBasedStateMachine):
    """An operator, agents, nonsense in etcd, and a controller that may be killed after each action."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.number = 0
        self.seen: dict[str, pb.Assignment] = {}

    @initialize()
    def begin(self) -> None:
        for name in NODES:
            self.store.add_node(name, "web", "worker", uid="a")
        self.store.set_environment(*NODES)
        self.deploy({"web", "redis"})

    # The operator

    @rule(name=nodes, labels=st.sets(st.sampled_from(["web", "worker"])), uid=st.sampled_from(["a", "b"]))
    def register(self, name: str, labels: set[str], uid: str) -> None:
        self.store.add_node(name, *labels, uid=uid)

    @rule(name=nodes)
    def cordon(self, name: str) -> None:
        self.store.add_node(name, "web", "worker", uid="a", cordoned=True)

    @rule(names=st.sets(nodes))
    def attach(self, names: set[str]) -> None:
        self.store.set_environment(*names, latest=self.number)

    @rule(names=st.sets(st.sampled_from(sorted(SERVICES)), min_size=1))
    def deploy(self, names: set[str]) -> None:
        self.number += 1
        self.store.deploy(self.number, *[service(name, SERVICES[name]) for name in names])

    @rule(name=nodes)
    def unregister(self, name: str) -> None:
        self.store.delete(KEYS.node(name))

    @rule()
    def delete_environment(self) -> None:
        self.store.delete(KEYS.environment(REF))

    # The agents

    @rule()
    def settle(self) -> None:
        self.store.converge()
        for name in NODES:
            self.report(name)
        self.store.converge()

    @rule(name=nodes)
    def report(self, name: str) -> None:
        if self.store.assignment(name) is not None:
            self.store.report(name)

    @rule(name=nodes)
    def report_a_crash(self, name: str) -> None:
        if (found := self.store.assignment(name)) is not None and found.services:
            self.store.report(name, crashed(found.services[0].name, failed=True))

    @rule(name=nodes)
    def become_unreachable(self, name: str) -> None:
        self.store.delete(KEYS.heartbeat(name))

    # Nonsense, and what is lost

    @rule(name=nodes, kind=st.sampled_from(["node", "heartbeat", "assignment", "status"]))
    def spoil(self, name: str, kind: str) -> None:
        keys = {
            "node": KEYS.node(name),
            "heartbeat": KEYS.heartbeat(name),
            "assignment": KEYS.assignment(name, REF),
            "status": KEYS.status(name, REF),
        }
        self.store.garbage(keys[kind])

    @rule(key=st.sampled_from([KEYS.environment(REF), KEYS.rollout(REF)]))
    def spoil_the_environment(self, key: str) -> None:
        self.store.garbage(key)

    @precondition(lambda self: self.number)
    @rule()
    def spoil_the_release(self) -> None:
        self.store.garbage(KEYS.release(REF, self.number))

    @rule(name=nodes)
    def lose_an_assignment(self, name: str) -> None:
        self.store.delete(KEYS.assignment(name, REF))

    # The controller

    @rule(actions=st.integers(0, 3))
    def die_in_the_middle(self, actions: int) -> None:
        self.store.step(only=actions)
        self.store.stopwatch = None

    @rule(seconds=st.integers(1, 700))
    def reconcile(self, seconds: int) -> None:
        self.store.seconds += seconds
        earlier = {name: self.store.records.get(KEYS.assignment(name, REF)) for name in NODES}
        self.store.converge()
        environment = self.store.records.get(KEYS.environment(REF))
        for name in NODES:
            was, after = earlier[name], self.store.records.get(KEYS.assignment(name, REF))
            if environment is not None and environment.error is not None:
                assert after == was, "an environment that cannot be read moves nothing"
            elif environment is None or name not in self.store.attached():
                assert after is None or (after.message is not None and after.message.removed)
            elif self._is_held(name) and was is not None and was.message and not was.message.removed:
                assert after == was, "what cannot be read takes nothing away"
            elif after == was and self._may_be_left(name):
                continue
            else:
                self._check_attached(name)
        if environment is None and not any(self._is_left(name) for name in NODES):
            assert KEYS.rollout(REF) not in self.store.records

    def _target(self) -> int:
        """The release that the environment is to run; 0: none."""
        record = self.store.records.get(KEYS.rollout(REF))
        return record.message.target if record is not None and record.message is not None else 0

    def _is_held(self, name: str) -> bool:
        """Return whether the Node or the target release cannot be read."""
        node, target = self.store.records.get(KEYS.node(name)), self._target()
        found = self.store.records.get(KEYS.release(REF, target)) if target else None
        return node is not None and (node.error is not None or (found is not None and found.error is not None))

    def _may_be_left(self, name: str) -> bool:
        """Return whether the node is unreachable, and so is not updated before its return."""
        node, heartbeat = self.store.records.get(KEYS.node(name)), self.store.records.get(KEYS.heartbeat(name))
        if node is None or node.message is None or heartbeat is None:
            return True
        return heartbeat.message is not None and heartbeat.message.uid != node.message.uid

    def _is_left(self, name: str) -> bool:
        return bool({KEYS.assignment(name, REF), KEYS.status(name, REF)} & set(self.store.records))

    def _check_attached(self, name: str) -> None:
        target = self._target()
        node = self.store.records.get(KEYS.node(name))
        found = self.store.records.get(KEYS.release(REF, target)) if target else None
        if found is None or found.message is None or node is None or node.message is None or node.message.cordoned:
            return
        rollout, assignment = self.store.rollout(), self.store.assignment(name)
        if rollout.halted and target == rollout.release:
            return
        assert assignment is not None
        expected = sorted(one for one in SERVICES if SERVICES[one] in node.message.labels)
        released = {service.name for service in found.message.services}
        assert [service.name for service in assignment.services] == [one for one in expected if one in released]
        assert (assignment.release, assignment.node_uid, assignment.removed) == (target, node.message.uid, False)
        assert rollout.release == self.number
        assert target in (rollout.release, rollout.last_settled)

    @invariant()
    def the_generation_rises_when_and_only_when_something_else_changes(self) -> None:
        for name in NODES:
            after = self.store.assignment(name)
            before = self.seen.pop(name, None)
            if after is None:
                # Without the key and without a status nobody remembers; with one of them it goes on from there.
                continue
            if before is not None:
                assert after.generation >= before.generation
                assert (after.generation == before.generation) == (after == before)
            self.seen[name] = after


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestAnyOrder = AnyOrder.TestCase
