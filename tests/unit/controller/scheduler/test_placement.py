"""Placement of replicas over time: unreachable nodes, drained nodes, replicas kept during moves."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.scheduler.placement import EnvironmentPlacement, place_services
from devopsellence.store.record import message_of
from tests.unit.controller.builders import KEYS, REF, Store, moment, node, service, service_status

JOBS = "jobs"


def jobs(replicas: int, name: str = JOBS, *, volume: bool = False, kind: str = "worker") -> workload_pb2.Service:
    made = service(name, kind)
    made.replicas = replicas
    if volume:
        made.volumes.add(source="data", target="/data")
    return made


def store(*names: str, replicas: workload_pb2.Service | None = None) -> Store:
    """A store with worker nodes ``names`` and release 1, at rest: every node has reported that it has settled."""
    made = Store()
    for name in names:
        made.add_node(name, "worker")
    made.set_environment(*names)
    made.deploy(1, replicas if replicas is not None else jobs(2))
    settle(made)
    return made


def settle(made: Store) -> None:
    """Plans are carried out and agents report that all is settled, until nothing changes any more."""
    for _ in range(10):
        made.converge()
        waiting = [name for name in made.attached() if answers(made, name) and not reported(made, name)]
        if not waiting:
            return
        for name in waiting:
            made.report(name)
    raise AssertionError("does not come to rest")


def answers(made: Store, name: str) -> bool:
    return KEYS.heartbeat(name) in made.records


def reported(made: Store, name: str) -> bool:
    assignment, status = made.assignment(name), made.records.get(KEYS.status(name, REF))
    if assignment is None:
        return True
    message = message_of(status)
    return message is not None and (message.generation, message.phase) == (
        assignment.generation,
        pb.AssignmentStatus.SETTLED,
    )


def silence(made: Store, name: str) -> None:
    made.delete(KEYS.heartbeat(name))


def come_back(made: Store, name: str) -> None:
    made.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=f"uid-{name}"))


def drain(made: Store, name: str, *labels: str, volumes: bool = False) -> None:
    node = pb.Node(name=name, uid=f"uid-{name}", labels=labels or ["worker"], cordoned=True)
    node.drain.volumes = volumes
    made.put(KEYS.node(name), node)


def placing(made: Store) -> EnvironmentPlacement:
    release = made.records[KEYS.release(REF, 1)].message
    assert isinstance(release, pb.Release)
    return place_services(made.snapshot(), frozenset(made.attached()), release, moment(made.seconds))


def homes(made: Store, name: str = JOBS) -> list[str]:
    """The nodes that are to run the service."""
    return [node for node in made.attached() if made.assignment(node) is not None and name in made.assigned(node)]


def test_replicas_are_spread_and_stay() -> None:
    made = store("n1", "n2", "n3")
    assert homes(made) == ["n1", "n2"]
    assert made.phase() == "SETTLED"
    made.add_node("n0", "worker")
    made.set_environment("n0", "n1", "n2", "n3", latest=1)
    settle(made)
    assert homes(made) == ["n1", "n2"]


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(2, 3, ["n1", "n2", "n3"]), (3, 1, ["n1"]), (2, 9, ["n1", "n2", "n3"])]
)
def test_scaled(before: int, after: int, expected: list[str]) -> None:
    made = store("n1", "n2", "n3", replicas=jobs(before))
    made.deploy(2, jobs(after))
    settle(made)
    assert homes(made) == expected


def test_dependency_on_another_node_is_reason() -> None:
    made = Store()
    made.add_node("n1", "web")
    made.add_node("n2", "worker")
    made.set_environment("n1", "n2")
    made.deploy(1, service("web", after=["redis"]), service("redis", "worker"))
    made.converge()
    problem = (
        'service "web" depends on "redis", which does not run on n1, and a service reaches only services of its own'
    )
    assert problem in made.rollout().reason
    for name in ("n1", "n2"):
        made.report(name)
    made.converge()
    assert (made.phase(), made.rollout().reason.startswith(problem)) == ("SETTLED", True)
    made.put(KEYS.node("n1"), node("n1", "web", "worker"))
    made.converge()
    made.report("n1")
    made.converge()
    assert (made.phase(), made.rollout().reason) == ("SETTLED", "")


def test_replicas_use_all_nodes_and_shortage_is_reason() -> None:
    made = store("n1", "n2", replicas=jobs(3))
    assert homes(made) == ["n1", "n2"]
    assert made.phase() == "SETTLED"
    assert made.rollout().reason == (
        'service "jobs" needs 3 replicas, but 2 attached nodes may run it; run devopsellence node attach <node>'
    )


def test_node_may_be_unreachable_for_while() -> None:
    made = store("n1", "n2", "n3")
    silence(made, "n1")
    made.converge()
    assert placing(made).recheck_after == 60.0
    made.seconds += 59
    assert placing(made).recheck_after == 1.0
    made.converge()
    assert homes(made) == ["n1", "n2"]


def test_replica_of_unreachable_node_moves_after_reschedule_after() -> None:
    made = store("n1", "n2", "n3")
    silence(made, "n1")
    made.converge()
    made.seconds += 60
    made.converge()
    assert homes(made) == ["n1", "n2", "n3"], "it keeps its copy until the other one runs"
    (event,) = (event for event in made.events if event.code == "assignment_written" and "moves here" in event.message)
    assert "jobs moves here from n1 (unreachable for more than 60 s)" in event.message
    made.report("n3")
    made.converge()
    assert homes(made) == ["n2", "n3"]
    assert placing(made).recheck_after is None
    come_back(made, "n1")
    settle(made)
    assert homes(made) == ["n2", "n3"], "the copy that has settled elsewhere stays"


def test_returning_node_keeps_its_unreplaced_copy() -> None:
    made = store("n1", "n2", "n3")
    silence(made, "n1")
    made.converge()
    made.seconds += 60
    made.converge()
    come_back(made, "n1")
    made.converge()
    assert homes(made) == ["n1", "n2"]


def test_unreachable_node_keeps_its_replica_without_another_place() -> None:
    made = store("n1", "n2")
    silence(made, "n1")
    made.converge()
    made.seconds += 100
    settle(made)
    assert homes(made) == ["n1", "n2"]
    assert "(n1: unreachable for more than 60 s); run devopsellence node diagnose n1" in made.rollout().reason
    come_back(made, "n1")
    settle(made)
    assert homes(made) == ["n1", "n2"]
    assert made.rollout().reason == ""


def test_service_with_volume_waits_for_its_node() -> None:
    made = store("n1", "n2", replicas=jobs(1, volume=True))
    silence(made, "n1")
    made.converge()
    made.seconds += 1000
    assert placing(made).recheck_after is None
    settle(made)
    assert homes(made) == ["n1"]


def test_new_leader_counts_anew() -> None:
    made = store("n1", "n2", "n3")
    silence(made, "n1")
    made.converge()
    made.seconds += 50
    made.unreachable_since = Store().unreachable_since
    made.converge()
    made.seconds += 50
    made.converge()
    assert homes(made) == ["n1", "n2"]
    made.seconds += 10
    made.converge()
    assert homes(made) == ["n1", "n2", "n3"]


def test_release_says_how_long() -> None:
    made = store("n1", "n2", "n3")
    found = made.records[KEYS.release(REF, 1)].message
    assert isinstance(found, pb.Release)
    found.rollout.reschedule_after.FromSeconds(5)
    silence(made, "n1")
    made.converge()
    assert placing(made).recheck_after == 5.0


def test_nodes_that_do_not_answer_get_no_replica() -> None:
    made = Store()
    for name in ("n1", "n2"):
        made.add_node(name, "worker", alive=name == "n2")
    made.set_environment("n1", "n2")
    made.deploy(1, jobs(2))
    made.converge()
    assert homes(made) == ["n2"]
    assert made.phase() == "PROGRESSING"
    assert "(n1: unreachable)" in made.rollout().reason
    come_back(made, "n1")
    settle(made)
    assert homes(made) == ["n1", "n2"]


def test_another_label_moves_it_when_other_copy_runs() -> None:
    made = store("n1", "n2", "n3")
    made.add_node("n1", "web")
    made.converge()
    assert homes(made) == ["n1", "n2", "n3"]
    settle(made)
    assert homes(made) == ["n2", "n3"]


def test_cordoned_node_keeps_its_copy_which_counts() -> None:
    made = store("n1", "n2", "n3")
    made.add_node("n1", "worker", cordoned=True)
    settle(made)
    assert homes(made) == ["n1", "n2"]


def test_unreachable_replicas_are_reported() -> None:
    made = store("n1", "n2", replicas=jobs(1))
    made.add_node("n1", "worker", cordoned=True)
    made.deploy(2, jobs(1))
    settle(made)
    assert homes(made) == ["n1"]
    assert made.phase() == "PROGRESSING"
    assert (
        'service "jobs" runs only on nodes that take no new copies (n1: cordoned); run devopsellence node uncordon n1'
        in (made.rollout().reason)
    )


def test_node_that_cannot_be_read_keeps_its_copy_which_counts() -> None:
    made = store("n1", "n2", "n3")
    made.garbage(KEYS.node("n1"))
    made.converge()
    assert homes(made) == ["n1", "n2"]


def test_assignment_that_cannot_be_read_is_where_its_agent_reports_copy() -> None:
    made = store("n1", "n2", "n3")
    made.garbage(KEYS.assignment("n2", REF))
    made.converge()
    assert homes(made) == ["n1", "n2"]


def test_machine_that_replaces_another_gets_its_replicas() -> None:
    made = store("n1", "n2", "n3")
    made.add_node("n2", "worker", uid="another")
    settle(made)
    assert homes(made) == ["n1", "n2"]


def test_detached_node_is_replaced() -> None:
    made = store("n1", "n2", "n3")
    made.set_environment("n2", "n3", latest=1)
    settle(made)
    assert homes(made) == ["n2", "n3"]


# Draining


def test_drained_nodes_replica_leaves_when_another_has_settled() -> None:
    made = store("n1", "n2", "n3")
    drain(made, "n1")
    made.converge()
    assert homes(made) == ["n1", "n2", "n3"]
    assert made.progress("n1").reason == (
        'n1 is being drained: service "jobs" stays until it has settled on n2, n3; run devopsellence node uncordon n1'
    )
    made.report("n3", service_status(JOBS, health=pb.ServiceStatus.CHECKING))
    made.converge()
    assert homes(made) == ["n1", "n2", "n3"]
    settle(made)
    assert homes(made) == ["n2", "n3"]
    assert made.progress("n1").reason.endswith(" drained; run devopsellence node uncordon n1")


def test_drained_node_loses_its_replica_without_another_place() -> None:
    made = store("n1", "n2")
    drain(made, "n1")
    settle(made)
    assert homes(made) == ["n2"]
    assert "(n1: being drained)" in made.rollout().reason


def test_two_drained_nodes_keep_one_copy_for_each_that_is_missing() -> None:
    made = store("n1", "n2", "n3", "n4")
    drain(made, "n1")
    drain(made, "n2")
    made.converge()
    assert homes(made) == ["n1", "n2", "n3", "n4"]
    made.report("n3")
    made.converge()
    assert homes(made) == ["n1", "n3", "n4"]
    settle(made)
    assert homes(made) == ["n3", "n4"]


@pytest.mark.parametrize(("volumes", "expected"), [(False, ["n1"]), (True, ["n2"])])
def test_data_is_left_behind_only_if_that_was_said(*, volumes: bool, expected: list[str]) -> None:
    made = store("n1", "n2", replicas=jobs(1, volume=True))
    drain(made, "n1", volumes=volumes)
    settle(made)
    assert homes(made) == expected
    said = 'service "jobs" stays, as its data is here; devopsellence node drain n1 --move-volumes moves it'
    assert (said in made.progress("n1").reason) is not volumes


def test_drained_node_is_emptied_of_web_services_first() -> None:
    made = Store()
    for name in ("n1", "n2"):
        made.add_node(name, "web", "worker")
    made.set_environment("n1", "n2")
    made.deploy(1, service("web"), service("redis", "worker"), service("queue", "worker"))
    settle(made)
    drain(made, "n1", "web", "worker")
    made.converge()
    assert made.assigned("n1") == ["queue", "redis"]
    assert made.progress("n1").reason == (
        "n1 is being drained: queue, redis runs until web has ended there; run devopsellence node uncordon n1"
    )
    stopping = service_status("web", phase=pb.ServiceStatus.STOPPING)
    made.report("n1", service_status("queue"), service_status("redis"), stopping)
    made.converge()
    assert made.assigned("n1") == ["queue", "redis"], "web is still stopping"
    made.report("n1")
    made.converge()
    assert made.assigned("n1") == []
    settle(made)
    assert made.assigned("n2") == ["queue", "redis", "web"]
    assert made.phase() == "SETTLED"


def test_web_replica_that_waits_for_its_place_keeps_others_waiting() -> None:
    made = Store()
    for name in ("n1", "n2"):
        made.add_node(name, "web", "worker")
    made.set_environment("n1", "n2")
    made.deploy(1, jobs(1, "site", kind="web"), service("redis", "worker"))
    settle(made)
    drain(made, "n1", "web", "worker")
    made.converge()
    assert made.assigned("n1") == ["redis", "site"]
    assert "redis runs until site has ended there" in made.progress("n1").reason
    settle(made)
    assert (made.assigned("n1"), made.assigned("n2")) == ([], ["redis", "site"])


def test_drained_node_that_does_not_answer_blocks_nothing() -> None:
    made = store("n1", "n2", "n3")
    silence(made, "n1")
    drain(made, "n1")
    settle(made)
    assert homes(made) == ["n2", "n3"]
    assert made.phase() == "SETTLED"
    made.deploy(2, jobs(2))
    settle(made)
    assert made.phase() == "SETTLED"


def test_uncordoned_node_takes_part_and_nothing_moves_back() -> None:
    made = store("n1", "n2", "n3")
    drain(made, "n1")
    settle(made)
    made.add_node("n1", "worker")
    settle(made)
    assert homes(made) == ["n2", "n3"]


def test_rolled_back_in_middle_copy_that_runs_stays() -> None:
    made = store("n1", "n2", "n3")
    drain(made, "n1")
    made.converge()
    made.add_node("n1", "worker")
    made.converge()
    assert homes(made) == ["n1", "n2"]
