"""Command line as a process, against an etcd with TLS and fake agents."""

from __future__ import annotations

import asyncio
import json
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
from tests.support.cli import NO_DEV_CLUSTER, REF
from tests.support.etcd import EtcdServer
from tests.support.fake_agent import FakeAgent, FakeAgentServer
from tests.support.process import python_environ

TIMEOUT = 60


class FakeAgentCluster:
    """Environment :data:`REF` with the records of a controller and agents, and fake agents behind the records."""

    def __init__(self, server: EtcdServer, prefix: str, folder: Path) -> None:
        assert server.authority is not None
        self.authority = server.authority
        self.settings = server.settings(prefix, user="operator:ann")
        self.folder = folder
        self.environ = {
            **python_environ(),
            **self.settings.to_environ(),
            "DEVOPSELLENCE_HOME": NO_DEV_CLUSTER,
            "DEVOPSELLENCE_ENVIRONMENT": str(REF),
        }
        self.servers: dict[str, FakeAgentServer] = {}
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
        """Add an attached node that runs ``services``; ``serves``: with a heartbeat and a fake agent that answers."""
        agent = FakeAgent(name)
        server = FakeAgentServer(agent, self.authority.issue_agent(f"uid-{name}"))
        if serves:
            self.servers[name] = self._stack.enter_context(server)
        self._write_node(name, services, labels, server.address if serves else "")
        return agent

    def registered(self, name: str, uid: str, labels: Sequence[str]) -> None:
        """Add an attached node without status and heartbeat, which a real agent writes."""
        self._names = sorted({*self._names, name})
        self.write({f"node/{name}": Node(name=name, uid=uid, labels=labels), "environment": self._environment()})

    def release(self, *services: Service, tasks: Sequence[Task] = (), release_task: Task | None = None) -> None:
        """Write the newest release, number 1."""
        release = Release(number=1, services=services, tasks=tasks, release_task=release_task)
        self._release = 1
        self.write({"release": release, "environment": self._environment()})

    def write(self, records: dict[str, Message]) -> None:
        """Write records by short name: ``node/NAME``, ``heartbeat/NAME``, ``status/NAME``, release or environment."""

        async def work() -> None:
            async with Etcd(self.settings) as etcd:
                for name, message in records.items():
                    await etcd.put(self._key(etcd, name), encode(message))

        asyncio.run(work())

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command with pipes; ``environ`` is added to the variables."""
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
        """Run a command that must succeed; return stdout."""
        done = self.run(*arguments)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout.decode()

    def error(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must fail; return the error object."""
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
        """Write the heartbeat of the agent of ``name``, with its API at ``address``."""
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
