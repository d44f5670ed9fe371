"""Nodes are drained, fall silent and come back, in any order, and the controller dies anywhere: replicas never run on
fewer nodes than they can, and in the end on as many as they should."""

from __future__ import annotations

import random
from typing import Final

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.reachability import UnreachableSince
from tests.unit.controller.builders import KEYS, REF, Store, service, service_status
from tests.unit.controller.scheduler.test_placement import answers, come_back, drain, jobs, silence

NODES: Final = tuple(f"n{number}" for number in range(1, 7))
MOVABLE: Final = {"jobs": 2, "site": 3}


def services(jobs_replicas: int) -> list[workload_pb2.Service]:
    return [
        jobs(jobs_replicas),
        jobs(3, "site", kind="web"),
        jobs(1, "data", volume=True),
        service("agent", "worker"),
    ]


class Simulation:
    """Simulated cluster: stored records, and the services that really run on each node."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = Store()
        self.runs: dict[str, dict[str, str]] = {name: {} for name in NODES}
        self.drained = ""
        self.number = 1
        self.replicas = 2
        for name in NODES:
            self.store.add_node(name, "web", "worker")
        self.store.set_environment(*NODES)
        self.store.deploy(1, *services(self.replicas))

    # The agents

    def agent(self, name: str) -> None:
        """Run a round of the agent: end unassigned services, advance starting services, report."""
        assignment = self.store.assignment(name)
        if assignment is None or not answers(self.store, name):
            return
        wanted = {service.name for service in assignment.services}
        runs = self.runs[name]
        for gone in runs.keys() - wanted:
            # It ends in two steps, too.
            runs.pop(gone) if runs[gone] == "ending" else runs.update({gone: "ending"})
        for one in sorted(wanted):
            runs[one] = "running" if runs.get(one) else "starting"
        said = [self._status(one, runs[one]) for one in sorted(runs)]
        settled = all(runs.get(one) == "running" for one in wanted) and runs.keys() == wanted
        self.store.report(name, *said, phase="SETTLED" if settled else "CONVERGING")
        if not said:
            status = self.store.records[KEYS.status(name, REF)].message
            assert status is not None
            del status.services[:]

    def _status(self, name: str, how: str) -> pb.ServiceStatus:
        phases = {
            "starting": pb.ServiceStatus.STARTING,
            "running": pb.ServiceStatus.RUNNING,
            "ending": pb.ServiceStatus.STOPPING,
        }
        return service_status(name, phase=phases[how])

    # The controller

    def controller(self, *, only: int | None = None) -> None:
        """Plans once, carries out the first actions, and checks what each of them takes away."""
        planned = self.store.plan()
        for action in planned.actions[:only]:
            before = {name: self.serving(name) for name in MOVABLE}
            self.store.carry_out(action)
            for name, running in before.items():
                least = min(len(running), self.count(name))
                assert len(self.serving(name)) >= least, f"{action.reason} takes {name} from {action.node}"
        self.store.stopwatch = planned.stopwatch

    def count(self, name: str) -> int:
        return self.replicas if name == "jobs" else MOVABLE[name]

    def serving(self, name: str) -> set[str]:
        """The nodes on which the service runs, and goes on running as far as the controller has said."""
        found = set()
        for node in NODES:
            assignment = self.store.assignment(node)
            assigned = assignment is not None and any(service.name == name for service in assignment.services)
            if assigned and answers(self.store, node) and self.runs[node].get(name) == "running":
                found.add(node)
        return found

    # What happens

    def happen(self) -> None:
        """Let a random event happen, with at most two unreachable nodes."""
        self.store.seconds += self.random.choice([0, 1, 20, 61])
        away = {name for name in NODES if not answers(self.store, name)} | {self.drained} - {""}
        kind = self.random.choice(
            ["agent", "agent", "agent", "plan", "plan", "die", "silence", "back", "drain", "scale"]
        )
        if kind == "agent":
            self.agent(self.random.choice(NODES))
        elif kind == "plan":
            self.controller()
        elif kind == "die":
            self.controller(only=self.random.randint(0, 2))
            self.store.unreachable_since = UnreachableSince()
        elif kind == "silence" and len(away) < 2:
            silence(self.store, self.random.choice(NODES))
        elif kind == "back":
            come_back(self.store, self.random.choice(NODES))
        elif kind == "drain":
            self.toggle_drain(can=len(away) < 2)
        elif kind == "scale":
            self.number += 1
            self.replicas = self.random.randint(1, 3)
            self.store.deploy(self.number, *services(self.replicas))

    def toggle_drain(self, *, can: bool) -> None:
        if self.drained:
            self.store.add_node(self.drained, "web", "worker", alive=False)
            self.drained = ""
        elif can:
            self.drained = self.random.choice(NODES)
            drain(self.store, self.drained, "web", "worker")

    def rest(self) -> None:
        """Everybody works until nothing changes any more."""
        for _ in range(40):
            self.store.seconds += 61
            before = dict(self.store.records)
            self.controller()
            for name in NODES:
                self.agent(name)
            if {key: one.message for key, one in before.items()} == {
                key: one.message for key, one in self.store.records.items()
            }:
                return
        raise AssertionError("does not come to rest")


@pytest.mark.parametrize("seed", range(100))
def test_replicas_never_fall_below_wanted_number_and_reach_it(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.rest()
    data = simulation.serving("data")
    for _ in range(60):
        simulation.happen()
    for name in NODES:
        come_back(simulation.store, name)
    simulation.rest()
    for name in MOVABLE:
        assert len(simulation.serving(name)) == simulation.count(name), name
        assert simulation.drained not in simulation.serving(name)
        assert [node for node in NODES if name in simulation.runs[node]] == sorted(simulation.serving(name))
    assert simulation.serving("data") == data, "what has a volume never moves by itself"
    assert {node for node in NODES if "agent" in simulation.runs[node]} == set(NODES) - {simulation.drained}
    stuck = simulation.drained in data and simulation.store.rollout().release > 1
    assert simulation.store.phase() == "SETTLED" or (
        stuck and "take no new copies" in simulation.store.rollout().reason
    )
