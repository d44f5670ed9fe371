"""Real controllers as processes, and one environment of a test's own that is driven by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

M = TypeVar("M", bound=Message)
T = TypeVar("T")
REF = EnvironmentRef("acme", "shop", "production")
KINDS = {"web": workload_pb2.Service.WEB, "worker": workload_pb2.Service.WORKER}


class ControllerProcess:
    """One ``devopsellence-controller``."""

    def __init__(self, settings: Settings, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "devopsellence.controller", *arguments],
                env={**os.environ, **settings.to_environ()},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        text = self.log.read_text()
        whole = [line for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, whole) if line["event"] == event]

    async def logged(self, event: str) -> None:
        """Return once it has logged ``event``."""
        async with asyncio.timeout(15):
            while not self.lines(event):
                assert self._process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, 10)

    def kill(self) -> None:
        """kill -9, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)


#: Starts one, with these arguments.
Start = Callable[..., ControllerProcess]


class Environment:
    """What operators and agents would write, written by the test; waits on etcd's watch, never on time."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.keys = etcd.keys

    async def write(self, key: str, message: Message) -> int:
        return await self.etcd.put(key, encode(message))

    async def add_node(self, name: str, *labels: str, uid: str = "") -> None:
        uid = uid or f"uid-{name}"
        await self.write(self.keys.node(name), pb.Node(name=name, uid=uid, labels=sorted(labels)))
        await self.write(self.keys.heartbeat(name), pb.Heartbeat(node=name, uid=uid, router_address=f"{name}:7444"))

    async def attach(self, *names: str, latest: int = 0) -> None:
        await self.write(
            self.keys.environment(REF),
            pb.Environment(
                organization=REF.organization,
                project=REF.project,
                environment=REF.environment,
                nodes=sorted(names),
                latest_release=latest,
            ),
        )

    async def release(self, number: int, *, parallel: str = "100%", hosts: Sequence[str] = (), **services: str) -> None:
        """``services``: name → kind; ``hosts`` lead to the one called web."""
        made = pb.Release(
            organization=REF.organization,
            project=REF.project,
            environment=REF.environment,
            number=number,
            revision=f"rev{number}",
            services=[workload_pb2.Service(name=name, kind=KINDS[kind]) for name, kind in sorted(services.items())],
        )
        made.rollout.progress_deadline.FromSeconds(600)
        made.rollout.max_parallel = parallel
        if hosts:
            made.ingress.CopyFrom(routed(hosts))
        await self.write(self.keys.release(REF, number), made)

    async def certify(self, host: str, serial: str) -> None:
        """As an operator would, so that nobody else touches it."""
        made = pb.Certificate(
            organization=REF.organization,
            project=REF.project,
            environment=REF.environment,
            host=host,
            source=pb.Certificate.INSTALLED,
            serial=serial,
            chain_pem=f"chain {serial}",
            key_age=f"key {serial}",
        )
        await self.write(self.keys.certificate(REF, host), made)

    async def part(
        self, name: str, part: str, check: Callable[[pb.NodeIngress], bool] = lambda _: True
    ) -> pb.NodeIngress:
        """The part of ``name``'s ingress as soon as there is one that ``check`` says yes to."""
        key = self.keys.ingress(name, REF, part)
        found = await self.until(pb.NodeIngress, key, lambda one: one is not None and check(one))
        assert found is not None
        return found

    async def parts(self, name: str) -> list[str]:
        """The parts of its ingress that ``name`` has now."""
        listing = await self.etcd.list(self.keys.ingress_prefix(name))
        return [self.keys.parse_ingress(item.key)[2] for item in listing.items]

    async def deploy(self, release: pb.Release, *names: str) -> None:
        """Write ``release`` as the newest, with ``names`` attached."""
        await self.write(self.keys.release(REF, release.number), release)
        await self.attach(*names, latest=release.number)

    async def report_task(self, assignment: pb.Assignment, phase: pb.TaskStatus.Phase.ValueType) -> None:
        """As the node's agent would, once all services beside the task are there."""
        status = _status(assignment, pb.AssignmentStatus.SETTLED)
        status.task.CopyFrom(
            pb.TaskStatus(name=assignment.task.name, release=assignment.release, phase=phase, node=assignment.node)
        )
        await self.write(self.keys.status(assignment.node, REF), status)

    async def report(
        self, assignment: pb.Assignment, phase: pb.AssignmentStatus.Phase.ValueType, *services: pb.ServiceStatus
    ) -> None:
        status = _status(assignment, phase)
        status.services.extend(services)
        await self.write(self.keys.status(assignment.node, REF), status)

    async def read(self, kind: type[M], key: str) -> M | None:
        found = await self.etcd.get(key)
        return decode(kind, key, found.value) if found is not None else None

    async def until(self, kind: type[M], key: str, check: Callable[[M | None], bool]) -> M | None:
        """What ``key`` holds (None: nothing) as soon as ``check`` says yes to it."""
        seen: list[object] = []
        try:
            async with asyncio.timeout(15):
                listing = await self.etcd.list(self.keys.prefix)
                value = next((item.value for item in listing.items if item.key == key), None)
                message = _readable(kind, key, value)
                seen.append(message)
                if check(message):
                    return message
                async for batch in self.etcd.watch(self.keys.prefix, start_revision=listing.revision + 1):
                    for event in batch.events:
                        if event.key == key:
                            message = _readable(kind, key, event.kv.value if event.kv is not None else None)
                            seen.append(message)
                            if check(message):
                                return message
        except TimeoutError:
            raise AssertionError(f"{key} never held what was expected; it held: {seen}") from None
        raise AssertionError("the watch has ended")

    async def assignment(self, name: str, check: Callable[[pb.Assignment], bool] = lambda _: True) -> pb.Assignment:
        """The assignment of ``name`` as soon as there is one that ``check`` says yes to."""
        key = self.keys.assignment(name, REF)
        found = await self.until(pb.Assignment, key, lambda one: one is not None and check(one))
        assert found is not None
        return found

    async def rollout(self, check: Callable[[pb.Rollout], bool]) -> pb.Rollout:
        """The Rollout as soon as ``check`` says yes to it."""
        found = await self.until(pb.Rollout, self.keys.rollout(REF), lambda one: one is not None and check(one))
        assert found is not None
        return found

    async def gone(self, key: str) -> None:
        """Return once ``key`` is not there."""
        await self.until(pb.Event, key, lambda one: one is None)

    async def leader(self, identity: str) -> None:
        """Return once ``identity`` leads."""
        async with asyncio.timeout(15):
            while True:
                listing = await self.etcd.list(self.keys.election_prefix)
                candidates = sorted(listing.items, key=lambda item: item.create_revision)
                if candidates and decode(pb.Candidate, "", candidates[0].value).identity == identity:
                    return
                async for batch in self.etcd.watch(self.keys.election_prefix, start_revision=listing.revision + 1):
                    if batch.events:
                        break


def routed(hosts: Sequence[str]) -> workload_pb2.Ingress:
    """``hosts`` lead to the service web; nobody is asked for certificates, which the test writes itself."""
    rules = [workload_pb2.IngressRule(host=host, path_prefix="/", service="web", port="http") for host in hosts]
    return workload_pb2.Ingress(hosts=hosts, rules=rules, tls_mode=workload_pb2.Ingress.MANUAL)


def _status(assignment: pb.Assignment, phase: pb.AssignmentStatus.Phase.ValueType) -> pb.AssignmentStatus:
    return pb.AssignmentStatus(
        node=assignment.node,
        node_uid=assignment.node_uid,
        generation=assignment.generation,
        release=assignment.release,
        phase=phase,
    )


def _readable(kind: type[M], key: str, value: bytes | None) -> M | None:
    """Garbage that the test wrote itself counts as not there."""
    try:
        return decode(kind, key, value) if value is not None else None
    except MalformedRecord:
        return None
