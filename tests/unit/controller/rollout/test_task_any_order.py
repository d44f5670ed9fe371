"""Whatever happens, in whatever order, also to a controller with old copies: a release task is begun once at most."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import is_partial
from devopsellence.controller.plan import plan
from devopsellence.store.record import Record, revision_of
from tests.unit.controller.builders import KEYS, REF, Store, app, migration, moment, service

NODES = ("n1", "n2", "n3")
# What arrives at the controller on a stream of its own.
STREAMS = (
    KEYS.nodes_prefix,
    KEYS.heartbeats_prefix,
    KEYS.rollouts_prefix,
    KEYS.all_assignments_prefix,
    KEYS.all_statuses_prefix,
)
nodes = st.sampled_from(NODES)
Machine = tuple[str, str]


class TaskInAnyOrder(RuleBasedStateMachine):
    """An operator, machines that start what they are told to, a controller that dies, sees late, loses its record."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.number = 0
        self.with_task: set[int] = set()
        # The machine that is registered under each name.
        self.uids: dict[str, str] = {}
        # What each machine has on its disk about its tasks, by release.
        self.disks: dict[Machine, dict[int, pb.TaskStatus.Phase.ValueType]] = {}
        self.told: dict[int, set[Machine]] = {}
        self.begun: dict[int, list[Machine]] = {}
        self.reports: list[tuple[str, pb.AssignmentStatus]] = []
        # What was stored after each of the last steps, the newest last.
        self.past: deque[dict[str, Record[Any]]] = deque(maxlen=6)

    @initialize()
    def begin(self) -> None:
        for name in NODES:
            self.register(name, {"web", "worker"}, "a")
        self.store.set_environment(*NODES)
        self.deploy(task=False)
        self.reconcile(1)
        self.deploy(task=True)

    # The operator

    @rule(name=nodes, labels=st.sets(st.sampled_from(["web", "worker"])), uid=st.sampled_from(["a", "b"]))
    def register(self, name: str, labels: set[str], uid: str) -> None:
        self.uids[name] = uid
        self.store.add_node(name, *labels, uid=uid)

    @rule(name=nodes)
    def cordon(self, name: str) -> None:
        self.store.add_node(name, "web", "worker", uid=self.uids[name], cordoned=True)

    @rule(names=st.sets(nodes))
    def attach(self, names: set[str]) -> None:
        self.store.set_environment(*names, latest=self.number)

    @rule(task=st.sampled_from([True, True, False]))
    def deploy(self, task: bool) -> None:
        self.number += 1
        if task:
            self.with_task.add(self.number)
        services = [service("redis", "worker", f"redis:{self.number}"), app(self.number)]
        self.store.deploy(self.number, *services, task=migration() if task else None)

    @rule(name=nodes)
    def unregister(self, name: str) -> None:
        self.store.delete(KEYS.node(name))

    # The machines

    @rule(name=nodes)
    def become_unreachable(self, name: str) -> None:
        self.store.delete(KEYS.heartbeat(name))

    @rule(name=nodes, succeeds=st.booleans())
    def work(self, name: str, succeeds: bool) -> None:
        """The machine that is called so goes one step on with what it is told, and reports it."""
        assignment = self.store.assignment(name)
        if assignment is None or assignment.node_uid != self.uids[name]:
            return
        if assignment.removed or not assignment.HasField("task"):
            self.store.report(name)
        else:
            disk = self.disks.setdefault((name, self.uids[name]), {})
            before = disk.get(assignment.release, pb.TaskStatus.WAITING)
            if before == pb.TaskStatus.WAITING:
                disk[assignment.release] = pb.TaskStatus.RUNNING
                self.begun.setdefault(assignment.release, []).append((name, self.uids[name]))
            elif before == pb.TaskStatus.RUNNING:
                disk[assignment.release] = pb.TaskStatus.SUCCEEDED if succeeds else pb.TaskStatus.FAILED
            self.store.report_task(name, pb.TaskStatus.Phase.Name(disk[assignment.release]))
        status = self.store.records[KEYS.status(name, REF)].message
        assert isinstance(status, pb.AssignmentStatus)
        self.reports.append((name, status))

    @rule(succeeds=st.sampled_from([True, True, False]), rounds=st.integers(1, 2))
    def all_go_on(self, succeeds: bool, rounds: int) -> None:
        for _ in range(rounds):
            self.reconcile(1)
            for name in NODES:
                self.work(name, succeeds)

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def report_again_what_is_old(self, data: st.DataObject) -> None:
        name, status = data.draw(st.sampled_from(self.reports))
        self.store.put(KEYS.status(name, REF), status)

    # What is lost

    @rule(unreadable=st.booleans())
    def lose_the_record(self, unreadable: bool) -> None:
        if KEYS.rollout(REF) not in self.store.records or not (unreadable or self._is_written_elsewhere()):
            return
        if unreadable:
            self.store.garbage(KEYS.rollout(REF))
        else:
            self.store.delete(KEYS.rollout(REF))

    def _is_written_elsewhere(self) -> bool:
        """Return whether the record of the task can be recovered from the assignments."""
        record = self.store.records.get(KEYS.rollout(REF))
        if record is None or not isinstance(record.message, pb.Rollout) or record.message.release != self.number:
            return False
        task = record.message.task
        if self.number not in self.with_task or not task.node:
            return not self.told.get(self.number)
        if task.phase == pb.TaskStatus.SUCCEEDED and self._whole():
            return True
        assignment = self.store.assignment(task.node)
        return assignment is not None and assignment.HasField("task") and assignment.release == self.number

    @rule(name=nodes)
    def spoil_an_assignment(self, name: str) -> None:
        record = self.store.records.get(KEYS.rollout(REF))
        if KEYS.assignment(name, REF) in self.store.records and record is not None and record.message is not None:
            self.store.garbage(KEYS.assignment(name, REF))

    # The controller

    @rule(actions=st.integers(0, 3))
    def die_in_the_middle(self, actions: int) -> None:
        self.store.step(only=actions)
        self.store.stopwatch = None

    @rule(lags=st.fixed_dictionaries({prefix: st.integers(0, 5) for prefix in STREAMS}))
    def decide_from_old_copies(self, lags: dict[str, int]) -> None:
        """Each stream is so many steps behind; what was decided is written as far as its conditions hold."""
        now = self.store.records
        seen = {key: record for key, record in now.items() if not key.startswith(STREAMS)}
        for prefix, lag in lags.items():
            past = self.past[-1 - min(lag, len(self.past) - 1)]
            seen |= {key: record for key, record in past.items() if key.startswith(prefix)}
        self.store.records = seen
        planned = plan(self.store.snapshot(), moment(self.store.seconds), KEYS)
        self.store.records = now
        if not self._holds(planned.rests_on.key, planned.rests_on.mod_revision):
            return
        for action in planned.actions:
            compared = [(change.key, change.replaces) for change in action.changes]
            compared += [(precondition.key, precondition.mod_revision) for precondition in action.rests_on]
            if not all(self._holds(key, revision) for key, revision in compared):
                return
            self.store.carry_out(action)
            self.once()

    def _holds(self, key: str, revision: int) -> bool:
        record = self.store.records.get(key)
        return revision_of(record) == revision

    @rule(seconds=st.integers(1, 700))
    def reconcile(self, seconds: int) -> None:
        self.store.seconds += seconds
        self.store.converge()
        rollout = self.store.rollout()
        assert rollout.release == self.number
        assert rollout.HasField("task") == (self.number in self.with_task)
        if rollout.task.phase == pb.TaskStatus.FAILED:
            assert rollout.phase in (pb.Rollout.FAILED, pb.Rollout.ROLLING_BACK)
            assert not self._whole()
        if rollout.target != self.number:
            assert rollout.target == rollout.last_settled < self.number

    # What holds always

    def _whole(self) -> list[str]:
        """The nodes that are given all of the newest release."""
        found = {name: self.store.assignment(name) for name in NODES}
        return [
            name
            for name, one in found.items()
            if one is not None and not one.removed and one.release == self.number and not is_partial(one)
        ]

    @invariant()
    def once(self) -> None:
        for name in NODES:
            assignment = self.store.assignment(name)
            if assignment is not None and assignment.HasField("task"):
                self.told.setdefault(assignment.release, set()).add((name, assignment.node_uid))
        for release, machines in self.told.items():
            assert len(machines) == 1, f"release {release}: {machines}"
        for release, machines_in_turn in self.begun.items():
            assert len(machines_in_turn) == 1, f"release {release}: {machines_in_turn}"

    @invariant()
    def time_goes_by(self) -> None:
        self.past.append(dict(self.store.records))

    @invariant()
    def the_app_waits_for_success(self) -> None:
        if self.number in self.with_task and self._whole():
            ends = [disk.get(self.number) for disk in self.disks.values()]
            assert pb.TaskStatus.SUCCEEDED in ends


TaskInAnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestTaskInAnyOrder = TaskInAnyOrder.TestCase
