"""Carrying out actions on an engine whose answers the test decides: what is remembered of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests
import urllib3.exceptions

from devopsellence.age import AgeIdentity
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.cache import ContainerCache
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, ContainerExit, ContainerState, ImageVolume
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment, specs_with_new_peers
from devopsellence.nodeagent.reconcile.executor import ActionExecutor
from devopsellence.nodeagent.reconcile.history_store import RestartHistoryStore
from devopsellence.nodeagent.reconcile.machine import PullFromPeers
from devopsellence.nodeagent.reconcile.task_store import TaskStore
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV, IMAGE, REMOTE, UID, FakeEngine, container, service

PEERS = [stored_pb2.Peer(node=f"n{number}", uid=f"uid-{number}", api_address="10.0.0.1:7443") for number in (2, 3)]
NOW = Now(1000.0, 1_001_000.0)


def wants(*services: workload_pb2.Service, peers: Sequence[stored_pb2.Peer] = (), **more: Any) -> Desired:
    assignment = stored_pb2.Assignment(node="n1", node_uid=UID, release=1, services=services, peers=peers, **more)
    return resolve_assignment(assignment, ENV, UID)


class ScriptedEngine:
    """An engine that answers each call with ``answers`` by its name; an exception is raised. ``calls`` are kept.

    ``declared``: paths of the volumes that every image declares.
    """

    def __init__(self, *, declared: tuple[str, ...] = (), **answers: Any) -> None:
        self.cache = ContainerCache()
        self.owned = ContainerLedger.in_memory()
        self.images = SimpleNamespace(volumes=lambda _image: declared)
        self.calls: list[tuple[str, Any]] = []
        self._answers = answers

    async def refresh(self, container: str) -> None:
        self.calls.append(("refresh", (container,)))

    async def call(self, call: Callable[[Any], Any], *, about: str = "") -> Any:
        del about
        return call(self)

    async def admit(self, found: Container) -> Container | None:
        return found if found.id in self.cache.containers or found.id == "own" else None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, options or arguments))
            found = self._answers.get(name)
            if isinstance(found, Exception):
                raise found
            return found

        return answer


class NetworkEngine(ScriptedEngine):
    """The same, with a listing that shows no network."""

    async def relist(self) -> None:
        self.calls.append(("relist", ()))


def refusal(sentence: str, status: int) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError(sentence, response=response, explanation=sentence)


async def history_after(
    engine: ScriptedEngine,
    action: Action,
    want: Desired,
    memory: RestartHistory = NO_HISTORY,
    fetch: PullFromPeers | None = None,
    runs: Any = None,
) -> RestartHistory:
    """Return the restart history after an action."""
    actions = ActionExecutor(engine, lambda: NOW, SecretDecrypter(AgeIdentity.generate()), fetch)  # type: ignore[arg-type]
    return (await actions.carry_out(action, want, lambda _: None, runs)).change(memory)


def action_on_web(want: Desired, kind: ActionKind, identity: str = "") -> Action:
    wanted = want.services["web"]
    return Action(kind, "", "web", wanted.hash, identity, wanted.name)


async def test_image_id_is_pulled_where_peers_have_it() -> None:
    missing = ScriptedEngine(create=errors.ImageNotAvailable("No such image"))
    alone, among = wants(service()), wants(service(), peers=PEERS)
    memory = await history_after(missing, action_on_web(alone, ActionKind.CREATE), alone)
    assert (memory.failure, memory.image_missing) == (FailureCause.IMAGE, False)
    assert memory.reason == f"image {IMAGE} is not on this machine, and an image id cannot be pulled"
    memory = await history_after(missing, action_on_web(among, ActionKind.CREATE), among)
    assert (memory.failure, memory.image_missing) == (FailureCause.NONE, True)
    engine = FakeEngine(memories={("web", among.services["web"].hash): memory})
    (planned,) = plan(among, engine.observe(), engine.memories, engine.now).services
    assert planned.reason == f"fetching image {IMAGE}"
    assert [action.kind for action in planned.actions] == [ActionKind.PULL, ActionKind.CREATE, ActionKind.START]


async def test_peer_answers_are_recorded_as_a_pull() -> None:
    want = wants(service(), peers=PEERS)
    scripted: list[Any] = []

    async def given(image: str, peers: Sequence[stored_pb2.Peer], _progress: Callable[[str], None]) -> None:
        scripted.append((image, list(peers)))

    async def refused(*_: Any) -> None:
        raise errors.ImageNotAvailable("n2: it has none; n3: does not answer")

    async def full(*_: Any) -> None:
        raise errors.DiskFull("needs 3 MiB here, and 2 MiB are free")

    before = NO_HISTORY.missing_image()
    pull = action_on_web(want, ActionKind.PULL)
    assert await history_after(ScriptedEngine(), pull, want, before, given) == NO_HISTORY
    assert scripted == [(IMAGE, PEERS)]
    memory = await history_after(ScriptedEngine(), pull, want, before, refused)
    assert (memory.failure, memory.image_missing) == (FailureCause.PULL, True)
    assert "cannot be fetched from other nodes: n2: it has none; n3: does not answer" in memory.reason
    assert memory.retry > NOW.mono
    assert (await history_after(ScriptedEngine(), pull, want, before, full)).failure is FailureCause.DISK_FULL
    # An agent without a certificate cannot ask.
    assert (await history_after(ScriptedEngine(), pull, want, before)).failure is FailureCause.IMAGE


def test_peers_are_not_asked_for_registry_images() -> None:
    want = wants(service(image=REMOTE), peers=PEERS)
    assert want.services["web"].peers == ()
    assert want.services["web"].pull_message == f"pulling {REMOTE}"


def test_new_peers_are_noticed_without_a_new_spec_hash() -> None:
    one, other = service("web"), service("worker", image=REMOTE)
    before, after = wants(one, other), wants(one, other, peers=PEERS)
    assert {name: each.hash for name, each in before.services.items()} == {
        name: each.hash for name, each in after.services.items()
    }
    assert specs_with_new_peers(before, after) == [("web", after.services["web"].hash)]
    assert (
        specs_with_new_peers(after, after)
        == specs_with_new_peers(None, after)
        == specs_with_new_peers(after, before)
        == []
    )


def test_new_peers_reset_failed_pulls() -> None:
    memory = NO_HISTORY
    for _ in range(3):
        memory = memory.refused(FailureCause.IMAGE, "is not here", NOW, seed="")
    assert (memory.new_peers().refusals, memory.new_peers().waits(NOW.mono)) == (0, False)
    crashed = NO_HISTORY.refused(FailureCause.REFUSED, "no such command", NOW, seed="")
    assert crashed.new_peers() == crashed


# A network that somebody else is in the way of


@pytest.mark.parametrize(
    ("refused", "cause", "fix"),
    [
        (refusal("network with name x already exists", 409), FailureCause.NAME_TAKEN, "docker network rm x"),
        (
            refusal("could not find an available, non-overlapping IPv4 address pool among the defaults", 404),
            FailureCause.ADDRESS_POOL,
            "default-address-pools",
        ),
        (
            refusal("all predefined address pools have been fully subnetted", 500),
            FailureCause.ADDRESS_POOL,
            "default-address-pools",
        ),
        (refusal("iptables failed", 500), FailureCause.REFUSED, "iptables failed"),
    ],
)
async def test_refused_network_names_cause_and_fix(
    refused: docker.errors.APIError, cause: FailureCause, fix: str
) -> None:
    with pytest.raises(errors.EngineError) as raised, errors.translated():
        raise refused
    engine = NetworkEngine(create_network=raised.value)
    history = await history_after(engine, Action(ActionKind.CREATE_NETWORK, "", name="x"), wants(service()))
    assert history.failure is cause
    assert fix in history.reason
    assert history.retry > NOW.mono


# Output, before it is gone


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (("cannot answer",), ("cannot answer",)),
        (
            errors.EngineError("log driver does not support reading"),
            ("(the Docker Engine does not return the output: log driver does not support reading)",),
        ),
    ],
)
async def test_output_of_an_unhealthy_container_is_noted(answer: Any, lines: tuple[str, ...]) -> None:
    want, there = wants(service()), container(service())
    engine = ScriptedEngine(last_lines=answer)
    engine.cache.put(there)
    action = replace(action_on_web(want, ActionKind.READ_OUTPUT, there.id), reason="not healthy: answered 500")
    history = await history_after(engine, action, want)
    assert history.last_unhealthy is not None
    assert (history.last_unhealthy.reason, history.last_unhealthy.log_lines) == ("not healthy: answered 500", lines)
    assert history.is_noted_unhealthy(there)
    assert not history.waits(NOW.mono), "the next step follows at once"


@pytest.mark.parametrize(
    ("line", "answer", "hint"),
    [
        ("cannot open /data/x: Permission denied", "its volume belongs to root", "its volume belongs to root"),
        ("cannot open /data/x: Permission denied", "", ""),
        ("cannot open /data/x: Permission denied", errors.EngineError("no archive"), ""),
        # Not even looked for.
        ("no route to host", "its volume belongs to root", ""),
    ],
)
@pytest.mark.parametrize("kind", [ActionKind.EXAMINE, ActionKind.READ_OUTPUT])
async def test_denied_access_is_explained_by_the_owner_of_a_volume(
    kind: ActionKind, line: str, answer: Any, hint: str
) -> None:
    want, there = wants(service()), container(service())
    ended = container(service(), ContainerState.EXITED, finished="t1")
    exit_ = ContainerExit(1, False, "t1", 0.1, (line,))
    engine = ScriptedEngine(last_lines=(line,), inspect_exited=(ended, exit_), volume_hint=answer)
    engine.cache.put(there)
    history = await history_after(engine, action_on_web(want, kind, there.id), want)
    assert history.hint == hint
    assert ("volume_hint" in dict(engine.calls)) is ("denied" in line)


async def test_output_of_a_container_removed_meanwhile_is_not_noted() -> None:
    want, there = wants(service()), container(service())
    engine = ScriptedEngine(last_lines=errors.NotFound("No such container"))
    engine.cache.put(there)
    action = action_on_web(want, ActionKind.READ_OUTPUT, there.id)
    assert await history_after(engine, action, want) == NO_HISTORY
    assert engine.cache.of(str(ENV), want.network)[0] == ()


@pytest.mark.parametrize("problem", [None, OSError("No space left on device"), errors.EngineError("no log")])
async def test_removal_keeps_the_output_first_and_never_waits_for_it(problem: Exception | None) -> None:
    want, there = wants(service()), container(service(), ContainerState.EXITED)
    engine = ScriptedEngine(log_tail=problem if isinstance(problem, errors.EngineError) else b"frames")
    engine.cache.put(there)
    saved: list[tuple[str, bytes]] = []

    async def keep_output(removed: Container, frames: bytes) -> None:
        if problem is not None:
            raise problem
        saved.append((removed.id, frames))

    decrypter = SecretDecrypter(AgeIdentity.generate())
    executor = ActionExecutor(engine, lambda: NOW, decrypter, keep_output=keep_output)  # type: ignore[arg-type]
    await executor.carry_out(action_on_web(want, ActionKind.REMOVE, there.id), want, lambda _: None, None)  # type: ignore[arg-type]
    assert [name for name, _ in engine.calls] == ["log_tail", "remove"]
    assert saved == ([] if problem is not None else [(there.id, b"frames")])


async def test_container_that_never_started_has_no_output_to_keep() -> None:
    want, there = wants(service()), container(service(), ContainerState.CREATED)
    engine = ScriptedEngine()
    engine.cache.put(there)

    async def keep_output(_removed: Container, _frames: bytes) -> None:
        raise AssertionError

    decrypter = SecretDecrypter(AgeIdentity.generate())
    executor = ActionExecutor(engine, lambda: NOW, decrypter, keep_output=keep_output)  # type: ignore[arg-type]
    await executor.carry_out(action_on_web(want, ActionKind.REMOVE, there.id), want, lambda _: None, None)  # type: ignore[arg-type]
    assert [name for name, _ in engine.calls] == ["remove"]


# Names that are taken


async def test_container_of_an_interrupted_call_is_taken_over() -> None:
    want = wants(service())
    own = container(service(), ContainerState.CREATED, identity="own")
    engine = ScriptedEngine(create=errors.Conflict("in use"), inspect_any=own)
    assert await history_after(engine, action_on_web(want, ActionKind.CREATE), want) == NO_HISTORY
    assert engine.cache.containers == {"own": own}


async def test_own_container_of_another_spec_in_the_way_backs_off() -> None:
    want = wants(service())
    own = container(service(version="2"), ContainerState.CREATED, identity="own")
    engine = ScriptedEngine(create=errors.Conflict("in use"), inspect_any=own)
    memory = await history_after(engine, action_on_web(want, ActionKind.CREATE), want)
    assert memory.failure is FailureCause.REFUSED
    assert f"docker rm {own.name}" in memory.reason


async def test_names_taken_by_others_back_off_and_are_tried_at_once_when_free(tmp_path: Path) -> None:
    want = wants(service())
    other = container(service(), identity="other")
    engine = ScriptedEngine(create=errors.Conflict("in use"), inspect_any=other)
    memory = await history_after(engine, action_on_web(want, ActionKind.CREATE), want)
    assert memory.failure is FailureCause.NAME_TAKEN
    assert memory.retry > NOW.mono
    assert [known.id for known in engine.cache.foreign_of(str(ENV))] == ["other"]
    assert [name for name, _ in engine.calls].count("create") == 3
    with StateFolder(tmp_path) as folder:
        network = NO_HISTORY.refused(FailureCause.NAME_TAKEN, "a network", NOW, seed="")
        histories = {("web", want.services["web"].hash): memory, ("", ""): network}
        store = RestartHistoryStore(ENV, folder, ThreadPool(1, "disk"), histories)
        assert store.names_released()
        assert not store.names_released()
    assert not store.histories["web", want.services["web"].hash].waits(NOW.mono)
    assert store.histories["", ""] == network


# Volumes that an image declares


def mounts_of(engine: ScriptedEngine) -> dict[str, str]:
    (body,) = [arguments[1] for name, arguments in engine.calls if name == "create"]
    return {mount["Target"]: mount["Source"] for mount in body["HostConfig"].get("Mounts", [])}


async def test_volumes_of_an_image_are_named_after_service_and_path() -> None:
    spec = service("redis", volume=True)
    want = wants(spec)
    engine = ScriptedEngine(create="c1", declared=("/data", "/var/lib/redis"))
    action = Action(ActionKind.CREATE, "", "redis", want.services["redis"].hash, "", want.services["redis"].name)
    await history_after(engine, action, want)
    configured = names.volume_name(UID, ENV, "data")
    declared = names.volume_name(UID, ENV, "redis_volume_var_lib_redis")
    assert mounts_of(engine) == {"/data": configured, "/var/lib/redis": declared}
    assert [volume.name for volume in engine.owned.image_volumes(str(ENV))] == [declared]
    assert engine.cache.containers["c1"].volumes == mounts_of(engine)


async def test_volume_keeps_the_name_that_it_had_before() -> None:
    """As the anonymous volume of a container of version 0.1 does."""
    want = wants(service())
    engine = ScriptedEngine(create="c1", declared=("/data",))
    engine.owned.use_volumes([ImageVolume("a" * 64, str(ENV), "web", "/data")])
    await history_after(engine, action_on_web(want, ActionKind.CREATE), want)
    assert mounts_of(engine) == {"/data": "a" * 64}


async def test_volume_is_removed_with_its_service_and_forgotten() -> None:
    want = wants()
    for answer in (None, errors.NotFound("no such volume")):
        engine = ScriptedEngine(remove_volume=answer)
        engine.owned.use_volumes([ImageVolume("v", str(ENV), "web", "/data")])
        await history_after(engine, Action(ActionKind.REMOVE_VOLUME, "", "web", name="v"), want)
        assert engine.owned.image_volumes(str(ENV)) == ()
    engine = ScriptedEngine(remove_volume=errors.Conflict("volume is in use"))
    engine.owned.use_volumes([ImageVolume("v", str(ENV), "web", "/data")])
    memory = await history_after(engine, Action(ActionKind.REMOVE_VOLUME, "", "web", name="v"), want)
    assert memory.reason == "the volume of its image cannot be removed: volume is in use"
    assert engine.owned.image_volumes(str(ENV)) != ()


# A start that was cut off by the engine's own end

TASK_ID = "5b0cf1a09f5d2c7e4f4a7f7e3b1d0e8c5b0cf1a09f5d2c7e4f4a7f7e3b1d0e8c"


@pytest.mark.parametrize("status", [500, 409])
@pytest.mark.parametrize(
    "sentence",
    [
        f"failed to create shim: task {TASK_ID} already exists: unknown",
        f"failed to create task for container: task {TASK_ID}: already exists",
        f"failed to start shim: mkdir /run/docker/io.containerd.runtime.v2.task/moby/{TASK_ID}: file exists: unknown",
    ],
    ids=["20.10", "newer", "before the shim"],
)
def test_broken_start_differs_from_other_refusals(sentence: str, status: int) -> None:
    with pytest.raises(errors.HalfStarted, match="exists"), errors.translated(errors.EngineRefused):
        raise refusal(sentence, status)


def test_taken_name_is_not_a_broken_start() -> None:
    with pytest.raises(errors.Conflict), errors.translated(errors.EngineRefused):
        raise refusal('the container name "/task" already exists', 409)


async def test_broken_container_is_recreated() -> None:
    want = wants(service())
    spec = container(service(), ContainerState.CREATED)
    scripted = ScriptedEngine(start=errors.HalfStarted("already exists"))
    scripted.cache.put(spec)
    memory = await history_after(scripted, action_on_web(want, ActionKind.START, spec.id), want)
    assert memory == NO_HISTORY
    assert [name for name, _ in scripted.calls] == ["start", "remove"]
    assert scripted.calls[-1][1] == {"force": True}
    assert scripted.cache.of(str(ENV), want.network)[0] == ()
    engine = FakeEngine()
    (planned,) = plan(want, engine.observe(), {}, engine.now).services
    assert [action.kind for action in planned.actions] == [ActionKind.CREATE, ActionKind.START]


async def test_broken_start_of_a_task_fails_the_task(tmp_path: Path) -> None:
    task = workload_pb2.Task(name="release", service="web", command=["migrate"])
    want = wants(service(), task=task)
    assert want.task_service is not None
    scripted = ScriptedEngine(start=errors.HalfStarted("already exists"))
    action = Action(ActionKind.START, "", TASK, want.task_service.hash, "c1", want.task_service.name)
    with StateFolder(tmp_path) as folder:
        runs = await TaskStore.load(ENV, folder, ThreadPool(1, "disk"))
        await history_after(scripted, action, want, runs=runs)
    (run,) = runs.runs.values()
    assert run.ended
    assert run.reason.endswith("its outcome is not known")
    assert [name for name, _ in scripted.calls] == ["start"], "nothing of it is taken away or started again"


# Clocks, and settings changed by hand


@pytest.mark.parametrize("started", ["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"], ids=["back", "forward"])
async def test_time_of_running_is_not_the_engines_when_its_clock_steps(started: str) -> None:
    want = wants(service())
    ended = replace(
        container(service(), ContainerState.EXITED, finished="2026-06-01T00:00:00Z", code=3), started_at=started
    )
    exit_ = ContainerExit(3, False, ended.finished_at, ran=0.0 if started > ended.finished_at else 1e7)
    scripted = ScriptedEngine(inspect_exited=(ended, exit_))
    scripted.cache.put(replace(ended, state=ContainerState.RUNNING, finished_at="", running_since=900.0))
    scripted.cache.mark_exited(ended.id, 960.0)
    memory = await history_after(scripted, action_on_web(want, ActionKind.EXAMINE, ended.id), want)
    assert memory.last_end is not None
    assert memory.last_end.ran == 60.0
    assert (memory.crashes, memory.unstable) == (1, 0)


async def test_refused_update_of_settings_is_no_failure_of_the_service() -> None:
    want = wants(service())
    action = action_on_web(want, ActionKind.UPDATE, "c1")
    scripted = ScriptedEngine(update=errors.EngineRefused("memory limit below what is in use"))
    assert await history_after(scripted, action, want) == NO_HISTORY
    assert [name for name, _ in scripted.calls] == ["update", "refresh"]
    assert scripted.calls[0][1] == ("c1", {"RestartPolicy": {"Name": "no"}})


@pytest.mark.parametrize("error", [errors.ContainerHung("no answer"), errors.EngineUnavailable("gone")])
async def test_unknown_outcome_is_no_failure_of_the_service(error: errors.EngineError) -> None:
    want = wants(service())
    with pytest.raises(type(error)):
        await history_after(ScriptedEngine(start=error), action_on_web(want, ActionKind.START, "c1"), want)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (requests.ReadTimeout("read timed out"), errors.TimedOut),
        (requests.ConnectionError(urllib3.exceptions.ProtocolError("closed")), errors.EngineUnavailable),
        (ConnectionRefusedError(), errors.EngineUnavailable),
        (FileNotFoundError("/var/run/docker.sock"), errors.EngineUnavailable),
    ],
)
def test_call_without_an_answer_differs_from_a_lost_connection(
    error: Exception, expected: type[errors.EngineError]
) -> None:
    with pytest.raises(errors.EngineError) as raised, errors.translated():
        raise error
    assert type(raised.value) is expected


def test_body_without_an_end_is_a_call_without_an_answer() -> None:
    error = requests.ConnectionError("read timed out")
    error.__cause__ = TimeoutError("timed out")
    with pytest.raises(errors.TimedOut), errors.translated():
        raise error
