"""Controllers as processes, and an environment of the test's own driven by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.process import Program

M = TypeVar("M", bound=Message)
T = TypeVar("T")
REF = EnvironmentRef("acme", "shop", "production")
KINDS = {"web": workload_pb2.Service.WEB, "worker": workload_pb2.Service.WORKER}


class ControllerProcess(Program):
    """Running ``devopsellence-controller``. The log begins anew with each process."""

    def __init__(self, settings: Settings, log: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "devopsellence.controller", *arguments]
        super().__init__(command, {**os.environ, **settings.to_environ()}, log)
        log.unlink(missing_ok=True)
        self.start()

    async def logged(self, event: str) -> None:
        """Return once ``event`` is in the log."""
        async with asyncio.timeout(15):
            while not self.lines(event):
                assert self.running, self.log.read_text()
                await asyncio.sleep(0.02)

    async def stop(self) -> int:
        """End the process with SIGTERM; return the exit code."""
        self.send(signal.SIGTERM)
        return await asyncio.to_thread(self.wait, 10)


#: Starts a controller with further arguments.
StartController = Callable[..., ControllerProcess]


class EnvironmentDriver:
    """Writes records of operators and agents, and awaits those of controllers by a watch of etcd, never by time."""

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
        """Write a release. ``services``: kind by name; ``hosts`` lead to the service called web."""
        release = pb.Release(
            organization=REF.organization,
            project=REF.project,
            environment=REF.environment,
            number=number,
            revision=f"rev{number}",
            services=[workload_pb2.Service(name=name, kind=KINDS[kind]) for name, kind in sorted(services.items())],
        )
        release.rollout.progress_deadline.FromSeconds(600)
        release.rollout.max_parallel = parallel
        if hosts:
            release.ingress.CopyFrom(routed(hosts))
        await self.write(self.keys.release(REF, number), release)

    async def certify(self, host: str, serial: str) -> None:
        """Install a certificate as an operator does, so that no controller renews the certificate."""
        certificate = pb.Certificate(
            organization=REF.organization,
            project=REF.project,
            environment=REF.environment,
            host=host,
            source=pb.Certificate.INSTALLED,
            serial=serial,
            chain_pem=f"chain {serial}",
            key_age=f"key {serial}",
        )
        await self.write(self.keys.certificate(REF, host), certificate)

    async def part(
        self, name: str, part: str, check: Callable[[pb.NodeIngress], bool] = lambda _: True
    ) -> pb.NodeIngress:
        """Return a part of the ingress of node ``name`` once ``check`` accepts the part."""
        key = self.keys.ingress(name, REF, part)
        ingress = await self.until(pb.NodeIngress, key, lambda record: record is not None and check(record))
        assert ingress is not None
        return ingress

    async def parts(self, name: str) -> list[str]:
        """Return the names of the current parts of the ingress of node ``name``."""
        listing = await self.etcd.list(self.keys.ingress_prefix(name))
        return [self.keys.parse_ingress(item.key)[2] for item in listing.items]

    async def deploy(self, release: pb.Release, *names: str) -> None:
        """Write ``release`` as the newest, with ``names`` attached."""
        await self.write(self.keys.release(REF, release.number), release)
        await self.attach(*names, latest=release.number)

    async def report_task(self, assignment: pb.Assignment, phase: pb.TaskStatus.Phase.ValueType) -> None:
        """Report the phase of the release task as the agent does, with all services settled."""
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
        record = await self.etcd.get(key)
        return decode(kind, key, record.value) if record is not None else None

    async def until(self, kind: type[M], key: str, check: Callable[[M | None], bool]) -> M | None:
        """Return the record at ``key`` (None: no record) once ``check`` accepts the record."""
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
        """Return the assignment of node ``name`` once ``check`` accepts the assignment."""
        key = self.keys.assignment(name, REF)
        assignment = await self.until(pb.Assignment, key, lambda record: record is not None and check(record))
        assert assignment is not None
        return assignment

    async def rollout(self, check: Callable[[pb.Rollout], bool]) -> pb.Rollout:
        """Return the rollout once ``check`` accepts the rollout."""
        rollout = await self.until(
            pb.Rollout, self.keys.rollout(REF), lambda record: record is not None and check(record)
        )
        assert rollout is not None
        return rollout

    async def gone(self, key: str) -> None:
        """Return once there is no record at ``key``."""
        await self.until(pb.Event, key, lambda record: record is None)

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
    """Return an ingress of ``hosts`` that lead to the service web; the test writes the certificates."""
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
    """Decode a record; garbage written by the test counts as no record."""
    try:
        return decode(kind, key, value) if value is not None else None
    except MalformedRecord:
        return None
