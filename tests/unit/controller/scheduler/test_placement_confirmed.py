"""A change of placement that was shown is the one that is carried out: every plan confirms the one before, wherever the
controller is interrupted, and whatever the containers do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.cli.deploy.replicas import CurrentCopies, current_copies
from devopsellence.controller.model.reachability import UnreachableSince
from devopsellence.placement import may_run, task_nodes, why_leaves
from devopsellence.store.record import message_of
from tests.unit.controller.builders import KEYS, REF, Store, app, migration, service, service_status
from tests.unit.controller.scheduler.test_placement import drain

PARALLEL: Final = ("1", "50%", "100%")
Homes = dict[str, frozenset[str]]


class Simulation:
    """Cluster with a random placement at rest, then a change that is carried out in random steps.

    ``carried_out`` checks each assignment: a copy that is to stay is never removed, one that was removed never comes
    back, and one that leaves stays as it is until then.
    """

    def __init__(self, seed: int, *, task: bool = False) -> None:
        self.random = random.Random(seed)
        self.store = Store()
        self.task = task
        self.names = [f"n{number}" for number in range(1, self.random.randint(3, 6) + 1)]
        self.runs: dict[str, dict[str, tuple[str, str]]] = {}
        self.services = [name for name in ("cache", "jobs", "redis") if self.random.random() < 0.8] or ["redis"]
        self.volumes = {name for name in self.services if name == "redis" or self.random.random() < 0.3}
        self.promised: Homes = {}
        self.initial: dict[tuple[str, str], workload_pb2.Service] = {}
        self.removed: set[tuple[str, str]] = set()
        # Attached one after the other, and not by name: they differ in age.
        order = self.random.sample(self.names, len(self.names))
        for name in self.names:
            self.store.add_node(name, "web", "worker")
        first = self.random.randint(1, len(order))
        self.store.set_environment(*order[:first])
        self.number = 0
        self.deploy(parallel="100%", task=False)
        self.rest()
        self.store.set_environment(*order, latest=self.number)
        self.rest()
        for _ in range(self.random.randint(0, 2)):
            self.deploy(parallel="100%", task=False)
            self.rest()

    # Releases

    def deploy(self, *, parallel: str, task: bool) -> None:
        self.number += 1
        made = [self._service(name) for name in self.services]
        web = app(self.number, after=[name for name in self.services if self.random.random() < 0.7] if task else ())
        self.store.deploy(self.number, *made, web, parallel=parallel, task=migration() if task else None)

    def _service(self, name: str) -> workload_pb2.Service:
        image = self.random.choice(["old", f"new-{self.number}"])
        made = service(name, "worker", f"{name}:{image}")
        made.replicas = self.random.randint(0, len(self.names))
        if name in self.volumes:
            made.volumes.add(source=name, target="/data")
        return made

    def release(self) -> pb.Release:
        release = self.store.records[KEYS.release(REF, self.number)].message
        assert isinstance(release, pb.Release)
        return release

    def replicated(self) -> list[str]:
        return [service.name for service in self.release().services if service.replicas]

    # The command line

    def nodes(self) -> list[pb.Node]:
        records = (self.store.records.get(KEYS.node(name)) for name in self.store.attached())
        return [node for record in records if (node := message_of(record)) is not None]

    def dry_run(self) -> tuple[CurrentCopies, Homes]:
        """Return what ``deploy --dry-run`` reads, and the nodes that it shows for each service with replicas."""
        attached = self.store.attached()
        rollout = self.store.records[KEYS.rollout(REF)].message
        assert isinstance(rollout, pb.Rollout)
        stored = {name: record for name in attached if (record := self.store.records.get(KEYS.assignment(name, REF)))}
        statuses = {name: record for name in attached if (record := self.store.records.get(KEYS.status(name, REF)))}
        current = current_copies(
            self.release().services,
            self.nodes(),
            {name: record.message for name, record in stored.items() if record.message is not None},
            created={name: record.create_revision for name, record in stored.items()},
            statuses={name: record.message for name, record in statuses.items() if record.message is not None},
            recorded=rollout.replicas,
        )
        placement = current.place(self.release().services, self.nodes())
        return current, {name: frozenset(each.nodes) for name, each in placement.replica_placements.items()}

    def promise(self) -> None:
        """Remember the dry run, and the copies before it."""
        current, self.promised = self.dry_run()
        self.initial = {(node, name): one for node in self.names for name, one in self.assigned(node).items()}
        self.removed.clear()
        if self.task:
            placement = current.place(self.release().services, self.nodes())
            web = next(one for one in self.release().services if one.name == "web")
            able = [node for node in self.nodes() if may_run(web, node)]
            self.task_node = task_nodes(web, self.release().services, able, placement, current.held, ())[0]

    # The controller

    def assigned(self, node: str) -> Mapping[str, workload_pb2.Service]:
        assignment = self.store.assignment(node)
        return {one.name: one for one in assignment.services} if assignment is not None else {}

    def controller(self, *, only: int | None = None) -> None:
        planned = self.store.plan()
        for action in planned.actions[:only]:
            before = {node: dict(self.assigned(node)) for node in self.names}
            self.store.carry_out(action)
            for node in self.names:
                self.carried_out(node, before[node], self.assigned(node))
            if self.promised:
                self.confirmed()
        self.store.stopwatch = planned.stopwatch

    def carried_out(
        self, node: str, before: Mapping[str, workload_pb2.Service], after: Mapping[str, workload_pb2.Service]
    ) -> None:
        for name, homes in self.promised.items():
            if node in homes:
                assert name in after or name not in before, f"{name} is to stay on {node}"
                continue
            if name in before and name not in after:
                self.removed.add((node, name))
            assert name not in after or (node, name) not in self.removed, f"{name} comes back to {node}"
            assert name not in after or after[name] == self.initial[node, name], f"{name} leaves {node} as it is"

    def confirmed(self) -> None:
        rollout = self.store.rollout()
        if rollout.release == self.number:
            recorded = {each.service: frozenset([*each.settled, *each.pending]) for each in rollout.replicas}
            assert recorded == self.promised
            assert self.dry_run()[1] == self.promised

    # The agents

    def agent(self, name: str) -> None:
        """Run a round of the agent: a changed container is seen starting before it runs, an ending one as such."""
        assignment = self.store.assignment(name)
        if assignment is None:
            return
        runs, wanted = self.runs.setdefault(name, {}), self.assigned(name)
        for gone in runs.keys() - wanted.keys():
            runs.pop(gone) if runs[gone][1] == "STOPPING" else runs.update({gone: (runs[gone][0], "STOPPING")})
        for one, spec in wanted.items():
            same = one in runs and runs[one][0] == spec.image.pinned and runs[one][1] != "STOPPING"
            runs[one] = (spec.image.pinned, "RUNNING" if same else "STARTING")
        if assignment.HasField("task") and all(phase == "RUNNING" for _, phase in runs.values()):
            self.store.report_task(name, "SUCCEEDED", *self._statuses(name))
            return
        settled = runs.keys() == wanted.keys() and all(phase == "RUNNING" for _, phase in runs.values())
        phase = "REMOVED" if assignment.removed and not runs else "SETTLED" if settled else "CONVERGING"
        self.store.report(name, *self._statuses(name), phase=phase)

    def _statuses(self, name: str) -> list[pb.ServiceStatus]:
        runs = self.runs[name]
        return [service_status(one, phase=pb.ServiceStatus.Phase.Value(phase)) for one, (_, phase) in runs.items()]

    # Time

    def work(self, steps: int) -> None:
        for _ in range(steps):
            if self.random.random() < 0.6:
                self.agent(self.random.choice(self.names))
            else:
                self.controller(only=self.random.choice([None, 0, 1, 1, 2, 3]))
            if self.random.random() < 0.1:
                # Another leader.
                self.store.unreachable_since = UnreachableSince()
                self.store.stopwatch = None

    def rest(self) -> None:
        for _ in range(80):
            before = {key: record.message for key, record in self.store.records.items()}
            self.controller()
            for name in self.names:
                self.agent(name)
            if before == {key: record.message for key, record in self.store.records.items()}:
                return
        raise AssertionError("does not come to rest")

    def homes(self) -> Homes:
        return {
            name: frozenset(node for node in self.names if name in self.assigned(node)) for name in self.replicated()
        }


@pytest.mark.parametrize("seed", range(150))
def test_change_of_replicas_is_carried_out_as_shown_with_any_cut(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.deploy(parallel=simulation.random.choice(PARALLEL), task=False)
    simulation.promise()
    simulation.work(40)
    simulation.rest()
    assert simulation.homes() == simulation.promised
    assert simulation.store.phase() == "SETTLED"


@pytest.mark.parametrize("seed", range(80))
def test_release_task_runs_where_shown_beside_copies_that_stay(seed: int) -> None:
    simulation = Simulation(seed, task=True)
    simulation.deploy(parallel=simulation.random.choice(PARALLEL), task=True)
    simulation.promise()
    simulation.work(40)
    simulation.rest()
    task = simulation.store.task()
    assert (task.node, task.phase) == (simulation.task_node, pb.TaskStatus.SUCCEEDED)
    assert simulation.homes() == simulation.promised
    web = next(one for one in simulation.release().services if one.name == "web")
    data = {one.service for one in web.depends_on} & simulation.volumes & simulation.promised.keys()
    if len(data) == 1:
        assert task.node in simulation.promised[data.pop()]


@pytest.mark.parametrize("event", ["drained", "drained with volumes", "detached", "other labels", "new node"])
@pytest.mark.parametrize("seed", range(30))
def test_copies_that_may_stay_are_confirmed_after_another_change_midway(seed: int, event: str) -> None:
    simulation = Simulation(seed)
    simulation.deploy(parallel=simulation.random.choice(PARALLEL), task=False)
    simulation.promise()
    simulation.controller(only=1)
    simulation.work(simulation.random.randint(0, 15))
    before, lost, store = simulation.promised, simulation.random.choice(simulation.names), simulation.store
    settled = {each.service: frozenset(each.settled) for each in store.rollout().replicas}
    if event.startswith("drained"):
        drain(store, lost, "web", "worker", volumes="volumes" in event)
    elif event == "detached":
        store.set_environment(*(name for name in store.attached() if name != lost), latest=simulation.number)
    elif event == "other labels":
        store.add_node(lost, "web")
    else:
        simulation.names.append("n0")
        store.add_node("n0", "web", "worker")
        store.set_environment(*store.attached(), "n0", latest=simulation.number)
    simulation.promise()
    nodes = {node.name: node for node in simulation.nodes()}
    for one in simulation.release().services:
        for name in settled.get(one.name, frozenset()) & nodes.keys():
            if one.name in simulation.assigned(name) and not why_leaves(one, nodes[name]):
                assert name in simulation.promised[one.name], f"{one.name} stays on {name}"
        if event == "new node" and one.name in before:
            missing = one.replicas - len(before[one.name])
            assert simulation.promised[one.name] == before[one.name] | ({"n0"} if missing else frozenset())
    # A drained node stays at its release and keeps what has data.
    stays = {name for name in simulation.assigned(lost) if event == "drained" and name in simulation.volumes}
    simulation.work(40)
    simulation.rest()
    expected = {name: homes | ({lost} if name in stays else set()) for name, homes in simulation.promised.items()}
    assert simulation.homes() == expected
