"""Release task on a real engine: after its dependencies, once, whatever is killed or removed meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from tests.integration.nodeagent.gate import Gate
from tests.integration.nodeagent.test_pull import Registry
from tests.support.agent import AgentNode, Status, service_of, web, worker
from tests.support.docker import docker
from tests.support.host import Host, need_host
from tests.support.images import small_image
from tests.support.until import eventually

pytestmark = pytest.mark.docker

TaskStatus = stored_pb2.TaskStatus
APPEND = "echo ran >> /data/runs"


def app(script: str = "exec sleep 100000", **env: str) -> workload_pb2.Service:
    """Return the service with the app's image, and a volume that counts the runs."""
    service = worker("web", "sh", "-c", script, volume="data", **env)
    service.image.app = True
    return service


def task(script: str = APPEND, **env: str) -> workload_pb2.Task:
    return workload_pb2.Task(name="release", service="web", command=["sh", "-c"], args=[script], env=env)


async def assign(
    node: AgentNode, script: str = APPEND, *services: workload_pb2.Service, release: int = 1, **env: str
) -> int:
    """Write an assignment with a task that runs ``script``."""
    return await node.assign(*services, release=release, task=task(script, **env), task_service=app())


async def until(node: AgentNode, phase: TaskStatus.Phase.ValueType, seconds: float = 30.0) -> TaskStatus:
    """Return the status of the task, once in ``phase``."""
    name = TaskStatus.Phase.Name(phase)
    status = await node.until(f"task {name}", lambda status: status.task.phase == phase, seconds=seconds)
    return status.task


def runs(node: AgentNode, volume: str = "runs") -> int:
    """Return the number of runs of a task: lines on the volume."""
    volumes = docker("volume", "ls", "-q", *node.labelled).split()
    mount = next(volume for volume in volumes if "-data-" in volume)
    script = f"cat /data/{volume} 2>/dev/null | wc -l"
    return int(docker("run", "--rm", "-v", f"{mount}:/data", small_image(), "sh", "-c", script))


def tasks(node: AgentNode, *filters: str) -> list[str]:
    return node.containers("label=devopsellence.task", *filters)


async def test_task_runs_after_dependencies_with_env_and_volumes(node: AgentNode) -> None:
    db = web("db")
    needs = "wget -q -O /data/answer http://db:3000/up && echo $SHARED $OWN $BOTH > /data/env; echo ran >> /data/runs"
    node.start()
    service = app(SHARED="service", BOTH="service")
    await node.assign(db, task=task(needs, OWN="task", BOTH="task"), task_service=service)
    status = await node.until("succeeded", lambda status: status.task.phase == TaskStatus.SUCCEEDED)
    assert status.phase == Status.SETTLED
    assert [service.name for service in status.services] == ["db"]
    task_status = status.task
    assert (task_status.name, task_status.service, task_status.release, task_status.node) == ("release", "web", 1, "n1")
    assert (task_status.exit.code, task_status.reason) == (0, "")
    assert task_status.finished_at.ToNanoseconds() >= task_status.started_at.ToNanoseconds() > 0
    assert runs(node) == 1
    mount = next(volume for volume in docker("volume", "ls", "-q", *node.labelled).split() if "-data-" in volume)
    read = docker("run", "--rm", "-v", f"{mount}:/data", small_image(), "cat", "/data/answer", "/data/env")
    assert read.splitlines() == ["one", "service task task"]
    # Phase two: everything, without the task; its container is kept as long as its release is.
    await node.assign(db, app(), release=1)
    await node.settled()
    assert len(tasks(node, "status=exited")) == 1
    await node.assign(db, app(), release=2)
    await node.settled()

    async def gone() -> bool:
        return not await asyncio.to_thread(tasks, node)

    await eventually("the task's container is removed", gone)
    assert runs(node) == 1


async def test_failed_task_reports_end_and_is_not_repeated(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("web"))
    before = service_of(await node.settled(), "web").container
    await assign(node, f"{APPEND}; echo cannot migrate >&2; exit 3", worker("web"), release=2)
    task_status = await until(node, TaskStatus.FAILED)
    assert (task_status.exit.code, task_status.reason) == (3, "ended with exit code 3")
    assert list(task_status.exit.log_lines) == ["cannot migrate"]
    node.kill()
    docker("rm", *tasks(node))
    node.start()
    await assign(node, f"{APPEND}; echo cannot migrate >&2; exit 3", worker("web"), release=2)
    assert (await until(node, TaskStatus.FAILED)).exit.code == 3
    assert service_of(await node.settled(), "web").container == before
    assert runs(node) == 1


async def test_task_waits_for_supporting_service_with_a_reason(node: AgentNode) -> None:
    late = web(
        "db",
        script="while ! [ -e /tmp/go ]; do sleep 0.05; done; mkdir -p /w; echo > /w/up; exec httpd -f -p 3000 -h /w",
    )
    late.healthcheck.start_period.FromSeconds(60)
    node.start()
    await assign(node, APPEND, late)
    status = await node.until("waits", lambda status: status.task.reason.startswith("waits for db: not healthy yet"))
    assert status.task.phase == TaskStatus.WAITING
    assert tasks(node) == []
    docker("exec", *node.containers("status=running"), "touch", "/tmp/go")
    await until(node, TaskStatus.SUCCEEDED)


async def test_unstartable_task_fails(node: AgentNode) -> None:
    node.start()
    broken = workload_pb2.Task(name="release", service="web", command=["/no/such/command"])
    await node.assign(task=broken, task_service=app())
    task_status = await until(node, TaskStatus.FAILED)
    assert "its container cannot be started" in task_status.reason
    assert "/no/such/command" in task_status.reason
    assert not task_status.HasField("exit")


async def test_missing_task_image_is_retried_then_fails(node: AgentNode) -> None:
    node.start()
    service = app()
    service.image.pinned = "sha256:" + "e" * 64
    await node.assign(task=task(), task_service=service)
    assert "is not on this machine" in (await until(node, TaskStatus.FAILED)).reason


async def test_task_image_is_pulled_from_registry(node: AgentNode) -> None:
    registry = Registry()
    registry.there.set()
    try:
        service = app()
        service.image.pinned = registry.pinned
        node.start()
        await node.assign(task=task("exit 0"), task_service=service)
        await until(node, TaskStatus.SUCCEEDED)
        assert [line["action"] for line in node.lines("action") if line["service"]][-2:] == ["start", "examine"]
    finally:
        registry.server.shutdown()
        registry.server.server_close()
        await asyncio.to_thread(docker, "rm", *tasks(node))
        await asyncio.to_thread(docker, "rmi", "-f", registry.pinned)


async def test_task_runs_at_most_once_with_agent_killed_at_any_moment(node: AgentNode) -> None:
    """The agent ends a little later in each release, killed or not; each task leaves a line."""
    moments = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
    outcomes = []
    for release, after in enumerate(moments, start=1):
        node.start()
        script = f"echo ran >> /data/runs-{release}; sleep 0.3; echo ended >> /data/runs-{release}"
        await assign(node, script, worker("db"), release=release)
        await node.until("begun", lambda _: True)
        await asyncio.sleep(after)
        node.kill(signal.SIGTERM if release % 4 == 0 else signal.SIGKILL)
        node.start()
        status = await node.until(
            "ended", lambda status: status.task.phase in (TaskStatus.SUCCEEDED, TaskStatus.FAILED), seconds=60
        )
        outcomes.append(status.task)
        node.kill()
        assert runs(node, f"runs-{release}") in ((2,) if status.task.phase == TaskStatus.SUCCEEDED else (0, 2))
    assert sum(outcome.phase == TaskStatus.SUCCEEDED for outcome in outcomes) >= len(moments) - 2, outcomes


@pytest.mark.parametrize(
    ("stop_at", "forward", "phase", "lines"),
    [
        pytest.param(b"/containers/create", False, TaskStatus.SUCCEEDED, 1, id="before it is created"),
        pytest.param(b"/containers/create", True, TaskStatus.SUCCEEDED, 1, id="created, before the answer"),
        pytest.param(b"/start", False, TaskStatus.FAILED, 0, id="on record as started, before the engine knows"),
        pytest.param(b"/start", True, TaskStatus.SUCCEEDED, 1, id="started, before the answer"),
    ],
)
@pytest.mark.parametrize("killed", [True, False], ids=["the agent killed", "the connection lost"])
async def test_task_runs_at_most_once_with_calls_cut(
    node: AgentNode, stop_at: bytes, forward: bool, phase: TaskStatus.Phase.ValueType, lines: int, killed: bool
) -> None:
    with Gate(node.folder, stop_at, forward=forward) as gate:
        node.start("--docker-host", gate.host)
        await assign(node)
        await asyncio.to_thread(gate.wait)
        if killed:
            node.kill()
        gate.lift()
        if killed:
            node.start("--docker-host", gate.host)
        task_status = await until(node, phase)
        assert ("its outcome is not known" in task_status.reason) == (phase == TaskStatus.FAILED)
        assert runs(node) == lines
        # It stays so, also with the next agent.
        node.kill()
        node.start("--docker-host", gate.host)
        await assign(node)
        assert (await until(node, phase)).reason == task_status.reason
        assert runs(node) == lines


async def test_late_task_start_is_the_only_one(node: AgentNode) -> None:
    """The engine is slow, the agent is killed meanwhile, and the next agent looks before the start takes effect."""
    with Gate(node.folder, b"/start", forward=False) as gate:
        node.start("--docker-host", gate.host)
        await assign(node)
        await asyncio.to_thread(gate.wait)
        node.kill()
        node.start("--docker-host", gate.host)
        await until(node, TaskStatus.FAILED)
        gate.lift(late=True)

        async def ended() -> bool:
            return bool(await asyncio.to_thread(tasks, node, "status=exited"))

        await eventually("it has run", ended)
        assert runs(node) == 1
        await assign(node, release=2)
        await until(node, TaskStatus.SUCCEEDED)
        assert runs(node) == 2


async def test_task_end_is_noticed_after_agent_restart(node: AgentNode) -> None:
    node.start()
    await assign(node, f"{APPEND}; while ! [ -e /data/go ]; do sleep 0.05; done; exit 4")
    await until(node, TaskStatus.RUNNING)
    [container] = tasks(node)
    node.kill()
    docker("exec", container, "touch", "/data/go")
    docker("wait", container)
    node.start()
    assert (await until(node, TaskStatus.FAILED)).exit.code == 4
    assert runs(node) == 1


@pytest.mark.parametrize("away", [False, True], ids=["while the agent looks", "while the agent is away"])
async def test_running_task_removed_by_hand_has_unknown_outcome(node: AgentNode, away: bool) -> None:
    node.start()
    await assign(node, f"{APPEND}; exec sleep 1000")
    await until(node, TaskStatus.RUNNING)
    if away:
        node.kill()
    docker("rm", "-f", *tasks(node))
    if away:
        node.start()
    task_status = await until(node, TaskStatus.FAILED)
    assert "its outcome is not known" in task_status.reason or task_status.exit.code == 137
    assert runs(node) == 1


async def test_ended_task_removed_by_hand_keeps_result(node: AgentNode) -> None:
    node.start()
    await assign(node)
    before = await until(node, TaskStatus.SUCCEEDED)
    docker("rm", *tasks(node))
    await assign(node)
    assert await until(node, TaskStatus.SUCCEEDED) == before
    node.kill()
    node.start()
    # The whole assignment once more, as after a lost rollout.
    await assign(node)
    assert await until(node, TaskStatus.SUCCEEDED) == before
    assert tasks(node) == []
    assert runs(node) == 1


async def test_task_waits_for_task_of_previous_release(node: AgentNode) -> None:
    node.start()
    await assign(node, f"{APPEND}; while ! [ -e /data/go ]; do sleep 0.05; done")
    await until(node, TaskStatus.RUNNING)
    [container] = tasks(node)
    await assign(node, release=2)
    waits = "waits for task release of release 1 to end"
    status = await node.until("waits", lambda status: status.task.reason == waits)
    assert (status.task.phase, status.task.release) == (TaskStatus.WAITING, 2)
    docker("exec", container, "touch", "/data/go")
    await until(node, TaskStatus.SUCCEEDED)
    assert runs(node) == 2
    # How the first one ended is still on record, though its container is gone.
    [record] = (node.folder / "state" / "tasks").iterdir()
    assert [(load["release"], load["ended"], load["reason"]) for load in json.loads(record.read_text())] == [
        (1, True, ""),
        (2, True, ""),
    ]


async def test_tombstone_stops_and_removes_task(node: AgentNode) -> None:
    node.start()
    await assign(node, "exec sleep 1000", worker("db"))
    await until(node, TaskStatus.RUNNING)
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    assert node.containers() == []
    assert docker("network", "ls", "-q", *node.labelled) == ""


async def test_unreadable_task_record_is_not_empty(node: AgentNode) -> None:
    folder = node.folder / "state" / "tasks"
    folder.mkdir(parents=True)
    (folder / "acme+shop+production.json").write_text('[{"release": 1')
    node.start()
    await assign(node)
    status = await node.until("says so", lambda status: "cannot be read" in status.task.reason)
    assert status.task.phase == TaskStatus.WAITING
    assert tasks(node) == []


async def test_task_survives_killed_engine(node: AgentNode, tmp_path_factory: pytest.TempPathFactory) -> None:
    need_host()
    with Host(tmp_path_factory.mktemp("host")) as host:
        image = host.load_image("devopsellence/test:small")
        node.start("--docker-host", host.socket)
        service = app()
        service.image.pinned = image
        await node.assign(task=task(f"{APPEND}; exec sleep 1000"), task_service=service)
        await until(node, TaskStatus.RUNNING)
        host.kill_docker()
        host.start_docker()
        task_status = await until(node, TaskStatus.FAILED)
        assert task_status.reason
        [volume] = host.docker("volume", "ls", "-q").split()
        counted = host.docker("run", "--rm", "-v", f"{volume}:/data", image, "cat", "/data/runs")
        assert counted.split() == ["ran"]
        assert node.kill(signal.SIGTERM) == 0


def test_task_record_is_private(tmp_path: Path) -> None:
    from devopsellence.nodeagent.state import StateFolder

    with StateFolder(tmp_path / "state"):
        assert (tmp_path / "state" / "tasks").stat().st_mode & 0o777 == 0o700
