"""The machine in memory behaves as an engine does, as far as the agent can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.hollow.behaviour import Behaviour, Faults
from bench.hollow.engine import HollowEngine
from bench.hollow.machine import HollowMachine
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.creation import create_container
from devopsellence.nodeagent.docker.engine import EngineCallbacks
from devopsellence.nodeagent.docker.interface import DockerApi
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, ContainerState, EngineEvent
from devopsellence.nodeagent.plan.probe_spec import Probe, ProbeTiming
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool

ENV = "acme/shop/production"
LOCAL = f"sha256:{'a' * 64}"
REMOTE = f"registry.example/shop@sha256:{'b' * 64}"


def body(service: str = "web", image: str = LOCAL, **environ: str) -> dict[str, Any]:
    return {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in environ.items()],
        "Labels": {
            names.LABEL_ENVIRONMENT: ENV,
            names.LABEL_SERVICE: service,
            names.LABEL_HASH: "f" * 64,
            names.LABEL_RELEASE: "3",
        },
        "NetworkingConfig": {"EndpointsConfig": {"net": {}}},
    }


def machine(**faults: Any) -> HollowMachine:
    made = HollowMachine(Faults(**faults))
    made.create_network("net", {names.LABEL_ENVIRONMENT: ENV})
    return made


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Behaviour()),
        ({"HOLLOW_READY": "1.5"}, Behaviour(ready=1.5)),
        ({"HOLLOW_READY": "never"}, Behaviour(ready=None)),
        ({"HOLLOW_END": "0.2:3"}, Behaviour(end=(0.2, 3))),
        ({"HOLLOW_END": "0.2"}, Behaviour(end=(0.2, 0))),
    ],
    ids=["usual", "late", "never", "ends", "completes"],
)
def test_service_environment_sets_container_behaviour(environ: dict[str, str], expected: Behaviour) -> None:
    assert Behaviour.of(environ) == expected


def test_container_lifecycle() -> None:
    where = machine()
    identity = where.create("web-1", body())
    created = where.inspect("web-1")
    assert created is not None
    assert (created.id, created.state, created.release) == (identity, ContainerState.CREATED, 3)
    assert where.first_create.keys() == {3}
    started = where.start(identity)
    assert started is not None
    assert started.up
    assert started.address_on("net")
    assert where.passes(identity) == ""
    with pytest.raises(errors.Conflict):
        where.remove(identity)
    with pytest.raises(errors.EngineError, match="active endpoints"):
        where.remove_network(next(iter(where.networks)))
    where.stop(identity)
    seen, end = where.inspect_exited(identity)
    assert end is not None
    assert (seen.state, seen.exit_code, end.code) == (ContainerState.EXITED, 0, 0)
    where.remove(identity)
    with pytest.raises(errors.NotFound):
        where.inspect(identity)


def test_container_names_are_unique() -> None:
    where = machine()
    where.create("web-1", body())
    with pytest.raises(errors.Conflict):
        where.create("web-1", body())
    with pytest.raises(errors.Conflict):
        where.create_network("net", {})


def test_registry_image_is_present_after_pull() -> None:
    where = machine()
    with pytest.raises(errors.ImageNotAvailable):
        where.create("web-1", body(image=REMOTE))
    repository, _, digest = REMOTE.partition("@")
    where.pull(repository, digest, lambda _: None)
    where.create("web-1", body(image=REMOTE))
    where.faults.missing.add(REMOTE)
    with pytest.raises(errors.ImageNotAvailable):
        where.create("web-2", body(image=REMOTE))


def test_start_fails_without_network() -> None:
    where = machine()
    identity = where.create("web-1", body())
    where.remove_network(next(iter(where.networks)))
    with pytest.raises(errors.NetworkGone):
        where.start(identity)


@pytest.mark.parametrize(
    ("faults", "environ", "answer"),
    [
        ({}, {"HOLLOW_READY": "never"}, "answered 503"),
        ({"sick": {"web"}}, {}, "answered 503"),
        ({}, {"HOLLOW_READY": "3600"}, "connection refused"),
        ({"sick": {"other"}}, {}, ""),
    ],
    ids=["never", "sick", "not yet", "other"],
)
def test_probe_reports_http_status(faults: dict[str, Any], environ: dict[str, str], answer: str) -> None:
    where = machine(**faults)
    identity = where.create("web-1", body(**environ))
    where.start(identity)
    assert where.passes(identity) == answer


async def test_spontaneous_exits_produce_events_and_calls_do_not() -> None:
    where = machine(crashing={"web"})
    told: asyncio.Queue[EngineEvent] = asyncio.Queue()
    where.told.add(told.put_nowait)
    identity = where.create("web-1", body())
    where.start(identity)
    async with asyncio.timeout(20):
        event = await told.get()
    assert (event.action, event.id) == ("die", identity)
    assert where.containers[identity].exit_code == 1
    where.remove(identity)
    assert told.empty()


class EventRecorder:
    """Recorder of engine events."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.connections = asyncio.Event()

    @property
    def callbacks(self) -> EngineCallbacks:
        return EngineCallbacks(changed=self.changed.append, image=lambda: None, connection=self.connections.set)

    async def connection(self) -> None:
        async with asyncio.timeout(20):
            await self.connections.wait()
        self.connections.clear()


def start(identity: str) -> Callable[[DockerApi], Container | None]:
    return lambda calls: calls.start(identity)


async def test_engine_outage() -> None:
    where, told = machine(), EventRecorder()
    engine = HollowEngine(where, told.callbacks)
    running = asyncio.create_task(engine.run())
    await told.connection()
    identity = await engine.call(lambda calls: calls.create("web-1", body()))
    await engine.call(start(identity))
    await engine.refresh(identity)
    where.leave()
    await told.connection()
    assert (engine.connected, bool(engine.problem)) == (False, True)
    with pytest.raises(errors.EngineUnavailable):
        await engine.call(start(identity))
    with pytest.raises(errors.EngineUnavailable):
        await engine.question(Probe(ProbeTiming(), port=80), identity, "")()
    # Its containers go on, and what becomes of them meanwhile is seen later.
    where.end(identity, 7)
    assert engine.cache.containers[identity].up
    where.come_back()
    await told.connection()
    assert (engine.connected, engine.problem) == (True, "")
    assert engine.cache.containers[identity].exit_code == 7
    running.cancel()


async def test_interrupted_call_may_have_happened() -> None:
    where, told = machine(call_seconds=0.02), EventRecorder()
    engine = HollowEngine(where, told.callbacks)
    created = asyncio.Event()

    def create(calls: DockerApi) -> str:
        created.set()
        return calls.create("web-1", body())

    call = asyncio.create_task(engine.call(create))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert not where.containers, "cut off before the engine was asked"
    call = asyncio.create_task(engine.call(create))
    await created.wait()
    where.leave()
    with pytest.raises(errors.EngineUnavailable):
        await call
    assert where.containers, "the answer was lost"


async def test_copy_of_a_container_is_not_the_agents_own(tmp_path: Path) -> None:
    where, told = machine(), EventRecorder()
    ledger = ContainerLedger(tmp_path / "containers.json", ThreadPool(1, "disk"), StateFiles(tmp_path))
    engine = HollowEngine(where, told.callbacks, ledger)
    running = asyncio.create_task(engine.run())
    await told.connection()
    own = await create_container(engine, "web-1", body)
    await engine.call(start(own.id))
    copy = where.commit(own.id)
    where.rename(own.id, "other")
    await engine.relist()
    await engine.refresh(own.id)
    assert (set(engine.cache.containers), set(engine.cache.foreign)) == ({own.id}, {copy})
    assert engine.cache.containers[own.id].name == "other"
    where.discard(copy)
    assert not engine.cache.foreign
    running.cancel()
    await ledger.flush()
