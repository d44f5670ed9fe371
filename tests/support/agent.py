"""Node agent as a process, with a node of the test's own and assignments written by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.docker import docker, remove_node_objects
from tests.support.images import small_image
from tests.support.process import Program, log_lines, python_environ
from tests.support.until import eventually

Status = stored_pb2.AssignmentStatus
ServiceStatus = stored_pb2.ServiceStatus
ENV = EnvironmentRef("acme", "shop", "production")
SERVE = "mkdir -p /w; echo $TEXT > /w/up; exec httpd -f -p 3000 -h /w"


def worker(name: str, *command: str, volume: str = "", image: str = "", **env: str) -> workload_pb2.Service:
    """Return a service without a health check; the default command sleeps."""
    service = workload_pb2.Service(
        name=name,
        kind=workload_pb2.Service.WORKER,
        image=workload_pb2.Image(reference="small:test", pinned=image or small_image()),
        command=command or ("sleep", "100000"),
        env=env,
    )
    # A sleep as process 1 of a container ignores SIGTERM.
    service.stop_grace_period.FromSeconds(0)
    if volume:
        service.volumes.add(source=volume, target="/data")
    return service


def web(name: str = "web", text: str = "one", script: str = SERVE) -> workload_pb2.Service:
    """Return a web service with the answer ``text`` at /up on port 3000 and a probe every 200 ms."""
    service = worker(name, "sh", "-c", script, TEXT=text)
    service.kind = workload_pb2.Service.WEB
    service.ports.add(name="http", port=3000)
    service.healthcheck.path, service.healthcheck.port, service.healthcheck.retries = "/up", 3000, 2
    service.healthcheck.interval.FromMilliseconds(200)
    service.healthcheck.timeout.FromMilliseconds(300)
    service.healthcheck.start_period.FromMilliseconds(300)
    return service


class AgentNode:
    """Node with an agent process. :meth:`clean` ends the agent and removes the objects made on the engine."""

    def __init__(self, etcd: Etcd, settings: Settings, folder: Path) -> None:
        self.etcd = etcd
        self.settings = settings
        self.folder = folder
        self.name = "n1"
        self.uid = f"test-{uuid.uuid4().hex}"
        self.log = folder / "agent.log"
        #: Shell command before the agent, in a mount namespace of the agent's own; empty: neither.
        self.mounts = ""
        self.generations: dict[EnvironmentRef, int] = {}
        self._agent: Program | None = None

    @property
    def pid(self) -> int:
        assert self._agent is not None
        return self._agent.pid

    @property
    def labelled(self) -> tuple[str, str]:
        return "--filter", f"label=devopsellence.node_uid={self.uid}"

    def start(self, *arguments: str) -> None:
        """Start the agent without waiting for anything."""
        assert self._agent is None
        command = [
            *(sys.executable, "-m", "devopsellence.nodeagent", "--node", self.name, "--node-uid", self.uid),
            *("--state-dir", str(self.folder / "state"), *arguments),
        ]
        if self.mounts:
            command = ["unshare", "--mount", "sh", "-c", f'{self.mounts} && exec "$@"', "sh", *command]
        environ = python_environ({**os.environ, **self.settings.to_environ()})
        self._agent = Program(command, environ, self.log)
        self._agent.start()

    @property
    def state(self) -> Path:
        """The agent's folder as the running agent finds it."""
        return Path(f"/proc/{self.pid}/root{self.folder}/state")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends the agent; return the exit code."""
        assert self._agent is not None
        self._agent.send(number)
        return self.ended()

    def ended(self) -> int:
        """Return the exit code of the agent once the agent has ended."""
        assert self._agent is not None
        code = self._agent.wait()
        self._agent = None
        return code

    def clean(self) -> None:
        """End the agent and remove the objects of the node."""
        if self._agent is not None:
            # Not SIGKILL: a call left behind on the engine could create an object after the removal.
            self.kill(signal.SIGTERM)
        remove_node_objects(self.uid)

    async def assign(
        self,
        *services: workload_pb2.Service,
        ref: EnvironmentRef = ENV,
        release: int = 1,
        removed: bool = False,
        uid: str = "",
        **more: Any,
    ) -> int:
        """Write an assignment with ``more`` as further fields; return the generation."""
        generation = self.generations[ref] = self.generations.get(ref, 0) + 1
        assignment = stored_pb2.Assignment(
            node=self.name,
            node_uid=uid or self.uid,
            organization=ref.organization,
            project=ref.project,
            environment=ref.environment,
            generation=generation,
            release=release,
            services=sorted(services, key=lambda service: service.name),
            removed=removed,
            **more,
        )
        await self.etcd.put(self.etcd.keys.assignment(self.name, ref), encode(assignment))
        return generation

    async def status(self, ref: EnvironmentRef = ENV) -> Status | None:
        key = self.etcd.keys.status(self.name, ref)
        record = await self.etcd.get(key)
        return decode(Status, key, record.value) if record else None

    async def until(
        self,
        what: str,
        holds: Callable[[Status], Any],
        *,
        ref: EnvironmentRef = ENV,
        seconds: float = 20.0,
        any_generation: bool = False,
    ) -> Status:
        """Return the first status about the newest generation for which ``holds``.

        Raises:
            AssertionError: no such status came, or the agent ended; with the last status and the log.
        """
        give_up = time.monotonic() + seconds
        status: Status | None = None
        while time.monotonic() < give_up:
            try:
                status = await self.status(ref)
            except StoreError:
                status = None
            current = status is not None and (any_generation or status.generation == self.generations.get(ref, 0))
            if current and status is not None and holds(status):
                return status
            assert self._agent is None or self._agent.running, self.log.read_text()[-4000:]
            await asyncio.sleep(0.02)
        raise AssertionError(f"{what}: not within {seconds} s; last:\n{status}\n{self.log.read_text()[-6000:]}")

    async def settled(self, ref: EnvironmentRef = ENV, seconds: float = 20.0) -> Status:
        return await self.until("settled", lambda status: status.phase == Status.SETTLED, ref=ref, seconds=seconds)

    async def runs(self, count: int) -> list[str]:
        """Return the short ids of the running containers of the node, once there are exactly ``count``."""

        async def look() -> list[str] | None:
            running = await asyncio.to_thread(self.containers, "status=running")
            return running if len(running) == count else None

        return await eventually(f"{count} containers run", look) or []

    async def heartbeat(self) -> stored_pb2.Heartbeat | None:
        key = self.etcd.keys.heartbeat(self.name)
        record = await self.etcd.get(key)
        return decode(stored_pb2.Heartbeat, key, record.value) if record else None

    def containers(self, *filters: str) -> list[str]:
        """Return the short ids of the containers of the node, running or not."""
        extra = [word for condition in filters for word in ("--filter", condition)]
        return docker("ps", "-aq", *self.labelled, *extra).split()

    def inspect(self, container: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(docker("inspect", container))[0]
        return document

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of the agent's log with this message."""
        return log_lines(self.log, event)


def service_of(status: Status, name: str) -> ServiceStatus:
    return next(service for service in status.services if service.name == name)


def reports(service: str, **fields: Any) -> Callable[[Status], bool]:
    """Return a condition: the status of ``service`` is there and has all these values."""

    def holds(status: Status) -> bool:
        services = [candidate for candidate in status.services if candidate.name == service]
        return bool(services) and all(getattr(services[0], field) == value for field, value in fields.items())

    return holds


def names(services: Sequence[ServiceStatus]) -> list[str]:
    return [service.name for service in services]
