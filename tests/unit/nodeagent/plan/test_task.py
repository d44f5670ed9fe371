"""The release's task as a table of situations, and every way in which it can be cut: it is never started twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerExit, ContainerState, Observed
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind, ServicePlan, TaskPlan
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import GIVE_UP, NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment
from devopsellence.nodeagent.plan.task import plan_task
from devopsellence.nodeagent.plan.task_run import TaskRun, TaskRunKey
from tests.unit.nodeagent.planning import ENV, IMAGE, REMOTE, UID, container, service

TaskStatus = stored_pb2.TaskStatus
ServiceStatus = stored_pb2.ServiceStatus
NOW = Now(1000.0, 1_000_000.0)
WAITING, RUNNING, SUCCEEDED, FAILED = (
    TaskStatus.WAITING,
    TaskStatus.RUNNING,
    TaskStatus.SUCCEEDED,
    TaskStatus.FAILED,
)


def goal(
    *services: workload_pb2.Service, release: int = 2, image: str = IMAGE, task: bool = True, removed: bool = False
) -> Desired:
    """An assignment with a task in service ``web``."""
    assignment = stored_pb2.Assignment(
        node="n1", node_uid=UID, generation=release, release=release, services=services, removed=removed
    )
    if task:
        assignment.task.CopyFrom(workload_pb2.Task(name="release", service="web", command=["migrate"]))
        assignment.task_service.CopyFrom(service(image=image))
    return resolve_assignment(assignment, ENV, UID)


GOAL = goal()
assert GOAL.task_service is not None
HASH = GOAL.task_service.hash
KEY = (2, "release", HASH)
FRESH = TaskRun(*KEY)
STARTED = FRESH.starting("t1")
ENDED = ContainerExit(0, False, "2026-01-01T00:00:09Z", 9.0, ("done",))


def task_container(
    state: ContainerState, *, identity: str = "t1", release: int = 2, one_off: bool = False
) -> Container:
    """The container of a task."""
    return Container(
        id=identity,
        name=f"task-{release}",
        environment=str(ENV),
        service="web",
        hash=HASH,
        release=release,
        image=IMAGE,
        state=state,
        started_at="" if state is ContainerState.CREATED else "2026-01-01T00:00:00Z",
        task="release",
        one_off=one_off,
    )


def planned(
    *containers: Container,
    run: TaskRun | None = None,
    memory: RestartHistory = NO_HISTORY,
    want: Desired = GOAL,
    services: tuple[ServicePlan, ...] = (),
    runs: tuple[TaskRun, ...] = (),
    problem: str = "",
) -> TaskPlan:
    known = {known_run.key: known_run for known_run in (*runs, *((run,) if run else ()))}
    memories = {(TASK, HASH): memory} if memory != NO_HISTORY else {}
    return plan_task(want, Observed(containers), services, known, memories, NOW, problem=problem)


def kinds(task: TaskPlan) -> list[str]:
    assert all(action.service == TASK for action in task.actions)
    return [f"{action.kind} {action.container}".strip() for action in task.actions]


def refused(times: int, trouble: FailureCause = FailureCause.REFUSED) -> RestartHistory:
    memory = NO_HISTORY
    for _ in range(times):
        memory = memory.refused(trouble, "no such command", NOW, seed="x")
    return memory


@pytest.mark.parametrize(
    ("containers", "run", "phase", "actions"),
    [
        pytest.param([], None, WAITING, ["create"], id="nothing has happened yet"),
        pytest.param([ContainerState.CREATED], None, WAITING, ["start t1"], id="created, never started"),
        pytest.param([ContainerState.REMOVING], None, WAITING, [], id="created, and being removed by somebody"),
        pytest.param(
            [ContainerState.CREATED], STARTED, RUNNING, ["examine t1"], id="on record as started, and was not"
        ),
        pytest.param([ContainerState.RUNNING], STARTED, RUNNING, [], id="runs"),
        pytest.param([ContainerState.PAUSED], STARTED, RUNNING, [], id="is paused"),
        pytest.param([ContainerState.RUNNING], None, RUNNING, ["examine t1"], id="runs, and the record is lost"),
        pytest.param([ContainerState.EXITED], STARTED, RUNNING, ["examine t1"], id="has ended"),
        pytest.param([ContainerState.EXITED], None, RUNNING, ["examine t1"], id="has ended, and the record is lost"),
        pytest.param([ContainerState.REMOVING], STARTED, RUNNING, ["examine t1"], id="is being removed by somebody"),
        pytest.param([], STARTED, RUNNING, ["examine t1"], id="was started, and its container is gone"),
        pytest.param([ContainerState.EXITED], FRESH.failed("x"), FAILED, [], id="has failed"),
        pytest.param([], FRESH.failed("x"), FAILED, [], id="has failed, and its container is gone"),
        pytest.param(
            [],
            STARTED.finished(task_container(ContainerState.EXITED), ENDED),
            SUCCEEDED,
            [],
            id="succeeded, container gone",
        ),
        pytest.param([ContainerState.RUNNING], FRESH.failed("x"), FAILED, [], id="runs although it was given up"),
    ],
)
def test_next_task_action(
    containers: list[ContainerState], run: TaskRun | None, phase: TaskStatus.Phase.ValueType, actions: list[str]
) -> None:
    task = planned(*(task_container(state) for state in containers), run=run)
    assert task.status is not None
    assert (task.status.phase, kinds(task)) == (phase, actions)


def test_task_status_shows_the_recorded_exit() -> None:
    task = planned(run=STARTED.finished(task_container(ContainerState.EXITED), replace(ENDED, code=3)))
    assert task.status is not None
    assert (task.status.name, task.status.service, task.status.release, task.status.node) == ("release", "web", 2, "n1")
    assert (task.status.phase, task.status.reason) == (FAILED, "ended with exit code 3")
    assert (task.status.exit.code, list(task.status.exit.log_lines)) == (3, ["done"])
    assert (task.status.finished_at.seconds - task.status.started_at.seconds) == 9


def test_finished_at_is_never_before_started_at() -> None:
    # Docker notes when a container was started after starting it; one that ends at once may have ended before.
    task = planned(
        run=STARTED.finished(
            task_container(ContainerState.EXITED), replace(ENDED, finished_at="2025-12-31T23:59:59.9999Z")
        )
    )
    assert task.status is not None
    assert task.status.finished_at == task.status.started_at


def test_task_waits_for_supporting_services() -> None:
    app, db = service("web"), service("db")
    app.image.app = True
    want = goal(app, db)
    late = ServicePlan("db", ServiceStatus.STARTING, reason="not healthy yet: answered 503")
    task = planned(want=want, services=(late, ServicePlan("web", ServiceStatus.BACKOFF, reason="ended")))
    assert task.status is not None
    assert (kinds(task), task.status.reason) == ([], "waits for db: not healthy yet: answered 503")
    there = replace(late, settled=True)
    assert kinds(planned(want=want, services=(there, ServicePlan("web", ServiceStatus.BACKOFF)))) == ["create"]
    # What has been started is looked after, whatever becomes of them.
    assert kinds(planned(task_container(ContainerState.EXITED), run=STARTED, want=want, services=(late,))) == [
        "examine t1"
    ]


def test_refused_task_is_retried_then_fails() -> None:
    task = planned(memory=refused(1))
    assert task.status is not None
    assert (kinds(task), task.status.phase, task.status.reason) == ([], WAITING, "no such command")
    assert task.wake is not None
    again = plan_task(GOAL, Observed(), (), {}, {(TASK, HASH): refused(1)}, Now(task.wake, 0.0))
    assert kinds(again) == ["create"]
    [action] = planned(memory=refused(GIVE_UP)).actions
    assert (action.kind, action.reason) == (ActionKind.GIVE_UP, "no such command")


def test_full_disk_delays_even_the_failure() -> None:
    assert kinds(planned(memory=refused(GIVE_UP, FailureCause.DISK_FULL))) == []
    assert (
        kinds(planned(task_container(ContainerState.EXITED), run=STARTED, memory=refused(1, FailureCause.DISK_FULL)))
        == []
    )


def test_registry_image_is_pulled_first() -> None:
    want = goal(image=REMOTE)
    assert want.task_service is not None
    memories = {(TASK, want.task_service.hash): NO_HISTORY.missing_image()}
    task = plan_task(want, Observed(), (), {}, memories, NOW)
    assert [action.kind for action in task.actions] == [ActionKind.PULL, ActionKind.CREATE]


def test_missing_secret_fails_the_task() -> None:
    assignment = stored_pb2.Assignment(node="n1", release=2)
    assignment.task.CopyFrom(workload_pb2.Task(name="release", service="web"))
    assignment.task_service.CopyFrom(service())
    assignment.task_service.secret_refs.add(name="A", secret="A", version=1)
    [action] = plan_task(resolve_assignment(assignment, ENV, UID), Observed(), (), {}, {}, NOW).actions
    assert (action.kind, "secret A (version 1)" in action.reason) == (ActionKind.GIVE_UP, True)


def test_unreadable_record_blocks_the_task() -> None:
    task = planned(problem="the record cannot be read")
    assert task.status is not None
    assert (kinds(task), task.status.phase, task.status.reason) == ([], WAITING, "the record cannot be read")


def test_task_of_previous_release_ends_before_its_removal() -> None:
    old = TaskRun(1, "release", HASH, container="t0")
    running = planned(task_container(ContainerState.RUNNING, identity="t0", release=1), runs=(old,))
    assert running.status is not None
    assert (kinds(running), running.status.reason) == ([], "waits for task release of release 1 to end")
    ended = task_container(ContainerState.EXITED, identity="t0", release=1)
    assert kinds(planned(ended, runs=(old,))) == ["examine t0", "create"]
    assert kinds(planned(ended, runs=(old.finished(ended, ENDED),))) == ["remove t0", "create"]
    assert kinds(planned(ended)) == ["remove t0", "create"]


def test_container_of_current_release_is_kept_and_older_ones_removed() -> None:
    old, own = task_container(ContainerState.EXITED, identity="t0", release=1), task_container(ContainerState.EXITED)
    task = planned(old, own, want=goal(service(), task=False))
    assert (kinds(task), task.status) == (["remove t0"], None)
    assert kinds(planned(task_container(ContainerState.RUNNING), want=goal(task=False, release=3))) == []


def test_manual_task_containers_are_removed_only_by_a_tombstone() -> None:
    by_hand = task_container(ContainerState.RUNNING, identity="o1", one_off=True)
    assert kinds(planned(by_hand, task_container(ContainerState.EXITED, identity="o2", one_off=True))) == ["create"]
    tombstone = goal(removed=True)
    there = [by_hand, task_container(ContainerState.EXITED)]
    assert kinds(planned(*there, want=tombstone)) == ["remove t1", "stop o1", "remove o1"]
    seen = Observed(tuple(there))
    assert not plan(tombstone, seen, {}, NOW).removed


def test_service_plan_ignores_task_containers() -> None:
    web = service()
    seen = Observed((container(web), task_container(ContainerState.RUNNING)))
    [only] = plan(goal(web), seen, {}, NOW).services
    assert all(action.container != "t1" for action in only.actions)


def test_task_without_services_gets_a_network() -> None:
    [action] = plan(GOAL, Observed(), {}, NOW).network
    assert action.kind is ActionKind.CREATE_NETWORK


@dataclass(frozen=True)
class TaskSituation:
    """All that outlives the agent: its container's state, its record, and how often the task was started."""

    state: ContainerState | None = None
    run: TaskRun | None = None
    starts: int = 0

    def plan(self) -> TaskPlan:
        known: dict[TaskRunKey, TaskRun] = {KEY: self.run} if self.run else {}
        there = (task_container(self.state),) if self.state else ()
        return plan_task(GOAL, Observed(there), (), known, {}, NOW)


def situations_when_cut(situation: TaskSituation, action: Action) -> Iterator[TaskSituation]:
    """Yield the situations after a kill of the agent before, in or after an action; the last is its regular end."""
    run = situation.run or FRESH
    yield situation
    if action.kind is ActionKind.CREATE:
        assert situation.state is None
        yield replace(situation, state=ContainerState.CREATED)
    elif action.kind is ActionKind.START:
        assert situation.state is ContainerState.CREATED
        recorded = replace(situation, run=run.starting("t1"))
        yield recorded
        yield replace(recorded, state=ContainerState.RUNNING, starts=situation.starts + 1)
    elif action.kind is ActionKind.EXAMINE:
        yield replace(situation, run=_examined(situation.state, run))


def _examined(state: ContainerState | None, run: TaskRun) -> TaskRun:
    if state in (None, ContainerState.CREATED):
        return run.failed("not known")
    return (
        run.starting("t1")
        if state is ContainerState.RUNNING
        else run.finished(task_container(ContainerState.EXITED), ENDED)
    )


def situations_meanwhile(situation: TaskSituation) -> Iterator[TaskSituation]:
    """Yield the situations that arise beside the agent: unchanged, the task exits, its container is removed."""
    yield situation
    if situation.state is ContainerState.RUNNING:
        yield replace(situation, state=ContainerState.EXITED)
    if situation.run is not None:
        yield replace(situation, state=None)


def test_task_cut_anywhere_ends_and_starts_at_most_once() -> None:
    seen, todo, ends = {TaskSituation()}, [TaskSituation()], set()
    while todo:
        situation = todo.pop()
        assert situation.starts <= 1
        task = situation.plan()
        assert task.status is not None
        if task.status.phase == SUCCEEDED:
            assert situation.starts == 1
        if task.status.phase in (SUCCEEDED, FAILED):
            ends.add(task.status.reason)
        after = [cut for action in task.actions[:1] for cut in situations_when_cut(situation, action)]
        for later in [other for next_ in (situation, *after) for other in situations_meanwhile(next_)]:
            if later not in seen:
                seen.add(later)
                todo.append(later)
    assert ends == {"", "not known"}
    assert len(seen) > 10


def test_every_task_situation_ends_by_itself() -> None:
    for state in (None, ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED):
        for run in (None, FRESH, STARTED):
            situation = TaskSituation(state, run)
            for _ in range(10):
                task = situation.plan()
                if task.actions:
                    *_, situation = situations_when_cut(situation, task.actions[0])
                elif situation.state is ContainerState.RUNNING:
                    situation = replace(situation, state=ContainerState.EXITED)
            status = situation.plan().status
            assert status is not None
            assert status.phase in (SUCCEEDED, FAILED), (state, run)
