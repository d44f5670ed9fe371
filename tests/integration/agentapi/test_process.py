"""API of a real agent: one certificate for API and etcd, address in the heartbeat, answers without etcd."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.api.v1.agent_pb2 import DiagnoseRequest, LogsRequest, RunRequest
from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.cli.agent.client import AgentEndpoint, connect
from devopsellence.store.etcd import Etcd
from tests.integration.agentapi.api_node import ENV, NODE, CommandResult, command, execute, first_output, settings
from tests.support.access import full_access
from tests.support.agent import AgentNode, worker
from tests.support.authority import Authority, settings_with
from tests.support.docker import docker
from tests.support.etcd import EtcdServer
from tests.support.need import need_docker, need_etcd
from tests.support.ports import free_port
from tests.support.until import eventually, until

pytestmark = [pytest.mark.docker, pytest.mark.etcd]


@dataclass
class ApiCluster:
    """An etcd, and a node whose agent has a certificate of the same authority."""

    authority: Authority
    server: EtcdServer
    machine: AgentNode
    address: str

    def start(self, *more: str) -> None:
        self.machine.start("--api-listen", self.address, *more)

    @property
    def agent(self) -> AgentEndpoint:
        return AgentEndpoint(NODE, self.machine.uid, self.address)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Iterator[EtcdServer]:
    need_docker()
    need_etcd()
    with EtcdServer(tmp_path / "etcd", authority=authority) as running:
        yield running


@pytest.fixture
async def cluster(authority: Authority, server: EtcdServer, tmp_path: Path) -> AsyncIterator[ApiCluster]:
    async with Etcd(server.settings(user="root")) as etcd:
        await etcd.put(etcd.keys.operator_access("ann"), full_access("ann"))
        machine = AgentNode(etcd, server.settings(), tmp_path)
        machine.settings = settings_with(machine.settings, authority.issue_agent(machine.uid))
        try:
            yield ApiCluster(authority, server, machine, f"127.0.0.1:{free_port()}")
        finally:
            await asyncio.to_thread(machine.clean)


async def _heartbeat(machine: AgentNode) -> Heartbeat:
    beat = await eventually("a heartbeat", machine.heartbeat)
    assert beat is not None
    return beat


async def test_agent_publishes_api_address_and_answers(cluster: ApiCluster) -> None:
    machine = cluster.machine
    cluster.address = "127.0.0.1:0"
    cluster.start()
    await machine.assign(worker("web", "sh", "-c", "echo hello; sleep 1000"))
    await machine.settled()
    beat = await _heartbeat(machine)
    assert beat.api_address.startswith("127.0.0.1:")
    assert not beat.api_address.endswith(":0")
    agent = AgentEndpoint(NODE, machine.uid, beat.api_address)
    async with connect(settings(cluster.authority.issue("operator:ann")), agent) as stub:
        answer = await anext(aiter(stub.Logs(LogsRequest(environment=str(ENV), lines=-1))))
        assert [line.line for line in answer.lines] == [b"hello"]
        assert (await execute(stub, command("web", "sh", "-c", "exit 42"))).exit_code == 42
        diagnosis = await stub.Diagnose(DiagnoseRequest())
        # As this machine is.
        assert {check.name for check in diagnosis.checks if not check.ok} <= {"disk", "memory", "isolation"}
        assert 0 < diagnosis.agent_memory_mib < 128, diagnosis
    async with connect(settings(cluster.authority.issue("node:n2")), agent) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="operator"):
            await stub.Diagnose(DiagnoseRequest())
    assert machine.kill(signal.SIGTERM) == 0


async def test_stopping_agent_waits_for_no_caller(cluster: ApiCluster) -> None:
    machine = cluster.machine
    cluster.start()
    await machine.assign(worker("web", "sh", "-c", "echo hello; sleep 1000"))
    status = await machine.settled()
    async with connect(settings(cluster.authority.issue("root")), cluster.agent) as stub:
        following = aiter(stub.Logs(LogsRequest(environment=str(ENV), follow=True, lines=-1)))
        await anext(following)
        call, result = stub.Exec(), CommandResult()
        await call.write(command("web", "sh", "-c", "echo ready; sleep 77"))
        await first_output(call, result)
        assert machine.kill(signal.SIGTERM) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(following)
    until("it has ended", lambda: "sleep 77" not in docker("top", status.services[0].container))


async def test_advertised_address_overrides_listen_address(cluster: ApiCluster) -> None:
    cluster.start("--api-advertise", "n1.example.org:7443")
    beat = await _heartbeat(cluster.machine)
    assert beat.api_address == "n1.example.org:7443"


async def test_agent_answers_from_disk_without_etcd(cluster: ApiCluster) -> None:
    machine = cluster.machine
    cluster.start()
    await machine.assign(worker("web", "sleep", "1000"))
    await machine.settled()
    machine.kill()
    cluster.server.kill()
    cluster.start()
    async with connect(settings(cluster.authority.issue("root")), cluster.agent) as stub:

        async def answers() -> bool:
            try:
                return (await execute(stub, command("web", "true"))).exit_code == 0
            except grpc.aio.AioRpcError:
                return False

        await eventually("a command runs", answers)
        checks = {check.name: check for check in (await stub.Diagnose(DiagnoseRequest())).checks}
    assert checks["docker"].ok
    assert not checks["etcd"].ok


async def test_task_left_by_killed_agent_is_removed_by_next(cluster: ApiCluster) -> None:
    machine = cluster.machine
    cluster.start()
    await machine.assign(worker("web", "sleep", "1000"))
    await machine.settled()
    start = RunRequest()
    start.start.environment = str(ENV)
    task = workload_pb2.Task(name="report", service="web", command=["sh", "-c", "echo ready; sleep 1000"])
    start.start.task.CopyFrom(task)
    async with connect(settings(cluster.authority.issue("root")), cluster.agent) as stub:
        call, result = stub.RunTask(), CommandResult()
        await call.write(start)
        await first_output(call, result)
        assert len(machine.containers()) == 2
        machine.kill()
    cluster.start()

    async def gone() -> bool:
        return len(await asyncio.to_thread(machine.containers)) == 1

    await eventually("the task's container is gone", gone)
    await machine.settled()


async def test_unreachable_engine_is_diagnosed(cluster: ApiCluster) -> None:
    machine = cluster.machine
    cluster.start("--docker-host", "unix:///nowhere.sock")
    async with connect(settings(cluster.authority.issue("root")), cluster.agent) as stub:

        async def answers() -> list[str]:
            try:
                checks = (await stub.Diagnose(DiagnoseRequest(), wait_for_ready=True)).checks
            except grpc.aio.AioRpcError:
                return []
            return [check.message for check in checks if check.name == "docker" and not check.ok]

        assert "does not answer" in (await eventually("a diagnosis", answers))[0]
    assert machine.kill(signal.SIGTERM) == 0


def test_command_line_refuses_invalid_options(authority: Authority, server: EtcdServer, tmp_path: Path) -> None:
    node = authority.issue_agent("u1")
    agent = [sys.executable, "-m", "devopsellence.nodeagent", "--node", NODE, "--node-uid", "u1"]
    agent += ["--state-dir", str(tmp_path / "state"), "--etcd-endpoints", server.endpoint]
    files = ["--etcd-ca-cert", node.authority, "--etcd-cert", node.certificate, "--etcd-key", node.key]

    def refused(*arguments: object) -> tuple[int, str]:
        done = subprocess.run([*agent, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30)
        return done.returncode, done.stderr

    code, words = refused("--api-listen", "127.0.0.1:0")
    assert code == 2
    assert "--api-listen needs a certificate" in words
    code, words = refused(*files, "--api-listen", "7443")
    assert code == 2
    assert "is not host:port" in words
    code, words = refused(*files, "--api-listen", server.endpoint)
    assert code == 1
    assert f"the API cannot listen on {server.endpoint}" in words
