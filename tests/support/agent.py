"""A real agent as a process, a node of a test's own, and assignments written by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.docker import remove
from tests.support.images import small_image

Status = stored_pb2.AssignmentStatus
ServiceStatus = stored_pb2.ServiceStatus
ENV = EnvironmentRef("acme", "shop", "production")
T = TypeVar("T")
SERVE = "mkdir -p /w; echo $TEXT > /w/up; exec httpd -f -p 3000 -h /w"


def docker(*args: str, check: bool = True) -> str:
    """What ``docker ARGS`` prints."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, f"docker {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def worker(name: str, *command: str, volume: str = "", image: str = "", **env: str) -> workload_pb2.Service:
    """A service without a check; sleeps, unless told otherwise."""
    service = workload_pb2.Service(
        name=name,
        kind=workload_pb2.Service.WORKER,
        image=workload_pb2.Image(reference="small:test", pinned=image or small_image()),
        command=command or ("sleep", "100000"),
        env=env,
    )
    # A sleep as a container's first process does not hear SIGTERM.
    service.stop_grace_period.FromSeconds(0)
    if volume:
        service.volumes.add(source=volume, target="/data")
    return service


def web(name: str = "web", text: str = "one", script: str = SERVE) -> workload_pb2.Service:
    """A service that answers ``text`` at /up on port 3000, checked every 200 ms."""
    service = worker(name, "sh", "-c", script, TEXT=text)
    service.kind = workload_pb2.Service.WEB
    service.ports.add(name="http", port=3000)
    service.healthcheck.path, service.healthcheck.port, service.healthcheck.retries = "/up", 3000, 2
    service.healthcheck.interval.FromMilliseconds(200)
    service.healthcheck.timeout.FromMilliseconds(300)
    service.healthcheck.start_period.FromMilliseconds(300)
    return service


class Machine:
    """A node: its uid, its agent, and what the agent makes on the engine, all of which :meth:`clean` removes."""

    def __init__(self, etcd: Etcd, settings: Settings, folder: Path) -> None:
        self.etcd = etcd
        self.settings = settings
        self.folder = folder
        self.node = "n1"
        self.uid = f"test-{uuid.uuid4().hex}"
        self.log = folder / "agent.log"
        self.generations: dict[EnvironmentRef, int] = {}
        self._agent: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._agent is not None
        return self._agent.pid

    @property
    def labelled(self) -> tuple[str, str]:
        return "--filter", f"label=devopsellence.node_uid={self.uid}"

    def start(self, *arguments: str) -> None:
        """Start the agent; returns at once."""
        assert self._agent is None
        command = [
            *(sys.executable, "-m", "devopsellence.nodeagent", "--node", self.node, "--node-uid", self.uid),
            *("--state-dir", str(self.folder / "state"), *arguments),
        ]
        environ = {**os.environ, **self.settings.to_environ(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self.log.open("ab") as log:
            self._agent = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the agent; its exit code."""
        assert self._agent is not None
        self._agent.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """The agent's exit code, once it has ended."""
        assert self._agent is not None
        code = self._agent.wait(timeout=20)
        self._agent = None
        return code

    def clean(self) -> None:
        """Leave nothing behind."""
        if self._agent is not None:
            # Not SIGKILL: a call that it leaves behind would make something after this has looked.
            self.kill(signal.SIGTERM)
        remove(self.uid)

    async def assign(
        self,
        *services: workload_pb2.Service,
        env: EnvironmentRef = ENV,
        release: int = 1,
        removed: bool = False,
        uid: str = "",
        **more: Any,
    ) -> int:
        """Write an assignment; its generation. ``more``: its other fields."""
        generation = self.generations[env] = self.generations.get(env, 0) + 1
        assignment = stored_pb2.Assignment(
            node=self.node,
            node_uid=uid or self.uid,
            organization=env.organization,
            project=env.project,
            environment=env.environment,
            generation=generation,
            release=release,
            services=sorted(services, key=lambda each: each.name),
            removed=removed,
            **more,
        )
        await self.etcd.put(self.etcd.keys.assignment(self.node, env), encode(assignment))
        return generation

    async def status(self, env: EnvironmentRef = ENV) -> Status | None:
        key = self.etcd.keys.status(self.node, env)
        found = await self.etcd.get(key)
        return decode(Status, key, found.value) if found else None

    async def until(
        self,
        what: str,
        holds: Callable[[Status], Any],
        *,
        env: EnvironmentRef = ENV,
        seconds: float = 20.0,
        any_generation: bool = False,
    ) -> Status:
        """The first status about the newest generation for which ``holds``; fails with the last one and the log."""
        give_up = time.monotonic() + seconds
        status: Status | None = None
        while time.monotonic() < give_up:
            try:
                status = await self.status(env)
            except StoreError:
                status = None
            current = status is not None and (any_generation or status.generation == self.generations.get(env, 0))
            if current and status is not None and holds(status):
                return status
            assert self._agent is None or self._agent.poll() is None, self.log.read_text()[-4000:]
            await asyncio.sleep(0.02)
        raise AssertionError(f"{what}: not within {seconds} s; last:\n{status}\n{self.log.read_text()[-6000:]}")

    async def settled(self, env: EnvironmentRef = ENV, seconds: float = 20.0) -> Status:
        return await self.until("settled", lambda status: status.phase == Status.SETTLED, env=env, seconds=seconds)

    async def runs(self, count: int) -> list[str]:
        """Short ids, once exactly ``count`` of this node's containers run."""

        async def look() -> list[str] | None:
            found = await asyncio.to_thread(self.containers, "status=running")
            return found if len(found) == count else None

        return await soon(f"{count} containers run", look) or []

    async def heartbeat(self) -> stored_pb2.Heartbeat | None:
        key = self.etcd.keys.heartbeat(self.node)
        found = await self.etcd.get(key)
        return decode(stored_pb2.Heartbeat, key, found.value) if found else None

    def containers(self, *filters: str) -> list[str]:
        """Short ids of this node's containers, also of those that do not run."""
        extra = [part for each in filters for part in ("--filter", each)]
        return docker("ps", "-aq", *self.labelled, *extra).split()

    def inspect(self, container: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(docker("inspect", container))[0]
        return document

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Log lines with this message."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line.get("event") == event]


def service_of(status: Status, name: str) -> ServiceStatus:
    return next(service for service in status.services if service.name == name)


async def soon(what: str, look: Callable[[], Awaitable[T]], *, seconds: float = 15.0) -> T:
    """The first truthy value that ``look`` returns."""
    give_up = time.monotonic() + seconds
    while True:
        seen = await look()
        if seen:
            return seen
        assert time.monotonic() < give_up, f"{what}: not within {seconds} s; last: {seen!r}"
        await asyncio.sleep(0.02)


def says(service: str, **fields: Any) -> Callable[[Status], bool]:
    """Holds when a service's status has all these values."""

    def holds(status: Status) -> bool:
        found = [each for each in status.services if each.name == service]
        return bool(found) and all(getattr(found[0], field) == value for field, value in fields.items())

    return holds


def names(services: Sequence[ServiceStatus]) -> list[str]:
    return [service.name for service in services]
