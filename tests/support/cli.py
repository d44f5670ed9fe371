"""Running commands in this process against the tests' etcd, and writing what a controller and an agent would."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner, Result
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Candidate,
    Environment,
    Heartbeat,
    Node,
    NodeProgress,
    Rollout,
    ServiceStatus,
)
from devopsellence.cli.main import main
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

M = TypeVar("M", bound=Message)
T = TypeVar("T")
REF = EnvironmentRef("acme", "Shop", "production")
NO_DEV_CLUSTER = "/nonexistent/devopsellence"


class Cli:
    """``devopsellence`` in ``folder``, with an etcd under a prefix of the test's own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.environ = {**settings.to_environ(), "DEVOPSELLENCE_HOME": NO_DEV_CLUSTER}

    def process_environ(self) -> dict[str, str]:
        """The environment of a command that is to be a process of its own."""
        return {**os.environ, **self.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def run(self, *arguments: str) -> Result:
        return CliRunner(env=self.environ).invoke(main, list(arguments))

    def ok(self, *arguments: str) -> str:
        """stdout of a command that must succeed."""
        result = self.run(*arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return result.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        """The one document of a bounded command that must succeed."""
        document: dict[str, Any] = json.loads(self.ok(*arguments, "-o", "json"))
        assert document["ok"]
        return document

    def json_lines(self, *arguments: str) -> list[dict[str, Any]]:
        """All objects that a streaming command prints that must succeed."""
        return [json.loads(line) for line in self.ok(*arguments, "-o", "json").splitlines()]

    def error(self, *arguments: str) -> dict[str, Any]:
        """The error object of a command that must fail, with its exit code checked."""
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code != 0
        error: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])["error"]
        assert error["exit_code"] == result.exit_code
        return error

    def etcd(self, work: Callable[[Etcd], Awaitable[T]]) -> T:
        """What ``work`` returns when it is given a connection."""

        async def connected() -> T:
            async with Etcd(self.settings) as etcd:
                return await work(etcd)

        return asyncio.run(connected())

    def read(self, key: Callable[[Etcd], str], kind: type[M]) -> M | None:
        """The record at a key."""

        async def work(etcd: Etcd) -> M | None:
            found = await etcd.get(key(etcd))
            return decode(kind, found.key, found.value) if found else None

        return self.etcd(work)

    def write(self, key: Callable[[Etcd], str], message: Message | bytes) -> None:
        """Store a record, or a value as it is."""
        value = message if isinstance(message, bytes) else encode(message)
        self.etcd(lambda etcd: etcd.put(key(etcd), value))


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


class Pretender:
    """Writes what the controller and the agent of node n1 would about the newest release of :data:`REF`."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.number = 0
        self.uid = ""
        self.started = now()

    async def begin(self, number: int) -> None:
        """Wait for release ``number``, then take it up."""
        keys = self.etcd.keys
        while True:
            found = await self.etcd.get(keys.environment(REF))
            if found and decode(Environment, found.key, found.value).latest_release >= number:
                break
            await asyncio.sleep(0.02)
        self.number = number
        node = await self.etcd.get(keys.node("n1"))
        self.uid = decode(Node, node.key, node.value).uid if node else ""
        await self.etcd.put(keys.candidate(7), encode(Candidate(identity="test/1")))
        await self.etcd.put(keys.heartbeat("n1"), encode(Heartbeat(node="n1", uid=self.uid)))
        await self.rollout(Rollout.PROGRESSING, 0)

    async def rollout(self, phase: Rollout.Phase.ValueType, settled: int, reason: str = "") -> None:
        progress = NodeProgress(node="n1", services_settled=settled, services_total=1)
        message = Rollout(
            organization=REF.organization,
            project=REF.project,
            environment=REF.environment,
            release=self.number,
            phase=phase,
            reason=reason,
            nodes=[progress],
            started_at=self.started,
            finished_at=now() if phase != Rollout.PROGRESSING else None,
        )
        await self.etcd.put(self.etcd.keys.rollout(REF), encode(message))

    async def status(self, service: ServiceStatus) -> None:
        message = AssignmentStatus(node="n1", release=self.number, services=[service], node_uid=self.uid)
        await self.etcd.put(self.etcd.keys.status("n1", REF), encode(message))

    async def settle(self) -> None:
        """Everything well."""
        await self.status(
            ServiceStatus(
                name="web",
                phase=ServiceStatus.RUNNING,
                health=ServiceStatus.HEALTHY,
                address="172.18.0.9",
                started_at=now(),
                release=self.number,
            )
        )
        await self.rollout(Rollout.SETTLED, 1)
