"""The command line as a process of its own, against an etcd with TLS and stand-ins for agents."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Environment, Heartbeat, Node, Release, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service, Task
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from tests.support.cli import NO_DEV_CLUSTER
from tests.support.etcd import EtcdServer
from tests.support.fake_agent import AgentAuthority, AgentServer, FakeAgent

REF = EnvironmentRef("acme", "Shop", "production")
TIMEOUT = 60


class Cluster:
    """What a controller and agents would have written about :data:`REF`, and the agents that answer."""

    def __init__(self, server: EtcdServer, prefix: str, folder: Path) -> None:
        assert isinstance(server.authority, AgentAuthority)
        self.authority = server.authority
        self.settings = server.settings(prefix, user="operator:ann")
        self.folder = folder
        self.environ = {
            **os.environ,
            **self.settings.to_environ(),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "DEVOPSELLENCE_HOME": NO_DEV_CLUSTER,
            "DEVOPSELLENCE_ENVIRONMENT": str(REF),
        }
        self.servers: dict[str, AgentServer] = {}
        self._stack = ExitStack()
        self._names: list[str] = []
        self._release = 0

    def __enter__(self) -> Self:
        self.write({"environment": self._environment()})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def node(self, name: str, *services: str, labels: Sequence[str] = ("web",), serves: bool = True) -> FakeAgent:
        """An attached node that runs ``services``; ``serves``: its agent answers and has a heartbeat."""
        agent = FakeAgent(name)
        server = AgentServer(agent, self.authority, self.authority.issue_agent(self.folder, f"uid-{name}"))
        if serves:
            self.servers[name] = self._stack.enter_context(server)
        self._write_node(name, services, labels, server.address if serves else "")
        return agent

    def registered(self, name: str, uid: str, labels: Sequence[str]) -> None:
        """An attached node whose agent speaks for itself."""
        self._names = sorted({*self._names, name})
        self.write({f"node/{name}": Node(name=name, uid=uid, labels=labels), "environment": self._environment()})

    def release(self, *services: Service, tasks: Sequence[Task] = (), release_task: Task | None = None) -> None:
        """The newest release, number 1."""
        release = Release(number=1, services=services, tasks=tasks, release_task=release_task)
        self._release = 1
        self.write({"release": release, "environment": self._environment()})

    def write(self, records: dict[str, Message]) -> None:
        """Store records under the keys that ``_key`` knows by name."""

        async def work() -> None:
            async with Etcd(self.settings) as etcd:
                for name, message in records.items():
                    await etcd.put(self._key(etcd, name), encode(message))

        asyncio.run(work())

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """The command line, with pipes; ``environ`` is added to its variables."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        command = [sys.executable, "-m", "devopsellence.cli", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env={**self.environ, **(environ or {})}, **{**pipes, **options}
        )

    def run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        process = self.start(*arguments, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL)
        try:
            out, err = process.communicate(stdin, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        assert b"Traceback" not in err, err.decode()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments: str) -> str:
        """stdout of a command that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout.decode()

    def error(self, *arguments: str) -> dict[str, Any]:
        """The error object of a command that must fail."""
        done = self.run(*arguments, "-o", "json")
        assert done.returncode != 0, done.stdout
        error: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["error"]
        assert error["exit_code"] == done.returncode
        return error

    def _write_node(self, name: str, services: Sequence[str], labels: Sequence[str], address: str) -> None:
        statuses = [
            ServiceStatus(name=service, phase=ServiceStatus.RUNNING, container="0" * 12) for service in services
        ]
        self.registered(name, f"uid-{name}", labels)
        self.write({f"status/{name}": AssignmentStatus(node=name, node_uid=f"uid-{name}", services=statuses)})
        if address:
            self.write_heartbeat(name, address)

    def write_heartbeat(self, name: str, address: str) -> None:
        """Say that the agent of ``name`` is there and answers at ``address``."""
        self.write({f"heartbeat/{name}": Heartbeat(node=name, uid=f"uid-{name}", api_address=address)})

    def _environment(self) -> Environment:
        return Environment(
            organization="acme",
            project="Shop",
            environment="production",
            nodes=self._names,
            latest_release=self._release,
        )

    def _key(self, etcd: Etcd, name: str) -> str:
        kind, _, node = name.partition("/")
        match kind:
            case "node":
                return etcd.keys.node(node)
            case "heartbeat":
                return etcd.keys.heartbeat(node)
            case "status":
                return etcd.keys.status(node, REF)
            case "release":
                return etcd.keys.release(REF, 1)
            case _:
                return etcd.keys.environment(REF)
