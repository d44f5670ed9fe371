"""Whatever nodes do and wherever the controller dies: never too many at once, and in the end what was asked for."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import WriteAction, WriteKind
from devopsellence.placement.max_parallel import limit_of
from devopsellence.store.record import message_of
from tests.unit.controller.builders import KEYS, REF, Store, crashed, service, service_status

NODES = ("n1", "n2", "n3", "n4", "n5")
nodes = st.sampled_from(NODES)


class MovingInAnyOrder(RuleBasedStateMachine):
    """An operator who deploys good and bad releases, nodes that come and go, a controller that dies."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.number = 0
        self.parallel = "1"
        # The nodes on which a release never becomes healthy.
        self.bad: dict[int, frozenset[str]] = {}
        self.has_settled: set[int] = set()

    @initialize(parallel=st.sampled_from(["1", "2", "25%", "60%"]))
    def begin(self, parallel: str) -> None:
        for name in NODES:
            self.store.add_node(name, "web", "worker")
            self.come_back(name)
        self.store.set_environment(*NODES)
        self.deploy(frozenset(), parallel, halt=False)
        self.everybody_goes_on(12)

    # The operator

    @rule(bad=st.frozensets(nodes, max_size=2), parallel=st.sampled_from(["1", "2", "25%", "60%"]), halt=st.booleans())
    def deploy(self, bad: frozenset[str], parallel: str, halt: bool) -> None:
        self.number += 1
        self.bad[self.number], self.parallel = bad, parallel
        web = service("web", image=f"app:{self.number}")
        self.store.deploy(self.number, web, service("redis", "worker"), parallel=parallel, halt=halt, deadline=100)

    @rule(name=nodes, cordoned=st.booleans(), worker=st.booleans())
    def relabel(self, name: str, cordoned: bool, worker: bool) -> None:
        labels = ("web", "worker") if worker else ("web",)
        self.store.put(KEYS.node(name), pb.Node(name=name, uid=f"uid-{name}", labels=labels, cordoned=cordoned))

    @rule(names=st.sets(nodes, min_size=2))
    def attach(self, names: set[str]) -> None:
        self.store.set_environment(*names, latest=self.number)

    # The nodes

    @rule(name=nodes)
    def become_unreachable(self, name: str) -> None:
        self.store.delete(KEYS.heartbeat(name))

    @rule(name=nodes)
    def come_back(self, name: str) -> None:
        self.store.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=f"uid-{name}", api_address="0.0.0.0:7443"))

    @rule(name=nodes)
    def start(self, name: str) -> None:
        assignment = self.store.assignment(name)
        if self._answers(name) and assignment is not None and not assignment.removed and assignment.services:
            self.store.report(name, service_status("web", phase=pb.ServiceStatus.STARTING))

    @rule(name=nodes)
    def lack_an_image(self, name: str) -> None:
        assignment = self.store.assignment(name)
        if self._answers(name) and assignment is not None and not assignment.removed and assignment.services:
            self.store.report(name, service_status("web", phase=pb.ServiceStatus.BACKOFF))

    @rule(name=nodes)
    def arrive(self, name: str) -> None:
        """The node comes to where it is told to, or gives up."""
        assignment = self.store.assignment(name)
        if assignment is None or not self._answers(name):
            return
        if name in self.bad.get(assignment.release, ()) and assignment.services:
            self.store.report(name, crashed("web", code=3, failed=True))
        else:
            self.store.report(name)

    @rule(rounds=st.integers(1, 6))
    def everybody_goes_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.lead()
            for name in NODES:
                self.arrive(name)
        self.lead()

    # The controller

    @rule(actions=st.integers(0, 3))
    def die_in_the_middle(self, actions: int) -> None:
        self.step(actions)
        self.store.stopwatch = None

    @rule(seconds=st.integers(1, 120))
    def lead(self, seconds: int = 0) -> None:
        self.store.seconds += seconds
        for _ in range(10):
            if not self.step(None):
                return
        raise AssertionError(f"does not come to rest: {self.store.plan().actions}")

    def step(self, only: int | None) -> int:
        """Plan and carry out, the first ``only`` of the actions; how many there were."""
        planned = self.store.plan()
        interrupted = []
        for action in planned.actions[:only]:
            self._check(action)
            interrupted += [action.node] if self._interrupts(action) else []
            self.store.carry_out(action)
            self._check_record()
        if interrupted:
            self._check_batch(interrupted)
        self.store.stopwatch = planned.stopwatch
        return len(planned.actions)

    # What holds always

    def _answers(self, name: str) -> bool:
        return KEYS.heartbeat(name) in self.store.records

    def _check(self, action: WriteAction) -> None:
        """Before it is carried out."""
        for change in action.changes:
            record = self.store.records.get(change.key)
            assert record is None or record.message != change.message, "nothing would change"
        if action.kind is not WriteKind.WRITE_ASSIGNMENT:
            return
        made, before = action.changes[0].message, self.store.assignment(action.node)
        assert isinstance(made, pb.Assignment)
        assert before is None or made.generation == before.generation + 1
        stays = before is not None and not before.removed and before.release == made.release
        assert stays or made.release == self.store.rollout().target, "the record comes first"
        assert stays or not self.store.rollout().halted or self.store.rollout().target != self.store.rollout().release

    def _check_record(self) -> None:
        record = self.store.records.get(KEYS.rollout(REF))
        rollout = message_of(record)
        if not isinstance(rollout, pb.Rollout):
            return
        if rollout.phase == pb.Rollout.SETTLED:
            assert rollout.target == rollout.release
            self.has_settled.add(rollout.release)
        assert rollout.target in (rollout.release, rollout.last_settled)
        assert rollout.last_settled in self.has_settled | {0}
        assert rollout.last_settled < rollout.release
        assert (rollout.target != rollout.release) <= bool(rollout.halted)
        assert rollout.phase != pb.Rollout.ROLLING_BACK or rollout.target != rollout.release

    def _interrupts(self, action: WriteAction) -> bool:
        """Before it is carried out: whether it takes something away that is not midway."""
        if action.kind is not WriteKind.WRITE_ASSIGNMENT:
            return False
        made, before = action.changes[0].message, self.store.assignment(action.node)
        if before is None or before.removed or not before.services:
            return False
        assert isinstance(made, pb.Assignment)
        rollout = self.store.rollout()
        midway = before.release not in (rollout.target, rollout.last_settled) and not self._has_arrived(action.node)
        return before.release != made.release and not midway

    def _check_batch(self, interrupted: list[str]) -> None:
        rollout = self.store.rollout()
        attached = [name for name in self.store.attached() if not self._node(name).cordoned]
        moved = [name for name in attached if self._is_at(name, rollout.target) and self._answers(name)]
        in_flight = [name for name in moved if not self._has_arrived(name)]
        if rollout.last_settled:
            limit = limit_of(self.parallel, len(attached))
            assert len(in_flight) <= limit, f"{in_flight} are in flight after {interrupted} have moved"

    def _node(self, name: str) -> pb.Node:
        found = self.store.records[KEYS.node(name)].message
        assert isinstance(found, pb.Node)
        return found

    def _is_at(self, name: str, target: int) -> bool:
        assignment = self.store.assignment(name)
        return assignment is not None and not assignment.removed and assignment.release == target

    def _has_arrived(self, name: str) -> bool:
        """Return whether the last report of the node says that all of its assignment has settled."""
        found, record = self.store.assignment(name), self.store.records.get(KEYS.status(name, REF))
        status = message_of(record)
        if found is None or not isinstance(status, pb.AssignmentStatus):
            return False
        return status.phase == pb.AssignmentStatus.SETTLED and status.generation == found.generation

    # How it ends

    def teardown(self) -> None:
        if not self.number:
            return
        for name in NODES:
            self.relabel(name, cordoned=False, worker=True)
            self.come_back(name)
        for _ in range(15):
            self.everybody_goes_on(1)
            self.store.seconds += 30
        rollout = self.store.rollout()
        assert rollout.phase in (pb.Rollout.SETTLED, pb.Rollout.FAILED)
        failing = self.bad[rollout.target] & frozenset(self.store.attached())
        if rollout.target == rollout.release and not rollout.halted and not failing:
            assert rollout.phase == pb.Rollout.SETTLED
        if not failing and not (rollout.halted and rollout.target == rollout.release):
            assert {one.release for one in self._assignments()} == {rollout.target}
        self.deploy(frozenset(), "2", halt=False)
        self.everybody_goes_on(12)
        assert (self.store.phase(), self.store.rollout().target) == ("SETTLED", self.number)
        assert {one.release for one in self._assignments()} == {self.number}

    def _assignments(self) -> list[pb.Assignment]:
        found = [self.store.assignment(name) for name in self.store.attached()]
        return [one for one in found if one is not None]


MovingInAnyOrder.TestCase.settings = settings(max_examples=120, stateful_step_count=30)
TestMovingInAnyOrder = MovingInAnyOrder.TestCase
