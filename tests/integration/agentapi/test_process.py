"""The API of a real agent: with the certificate that opens etcd for it, told by its heartbeat, and without etcd."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.api.v1.agent_pb2 import DiagnoseRequest, LogsRequest, RunRequest
from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.cli.agent.client import AgentEndpoint, connect
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import ETCD_SERVER_NAME
from tests.integration.agentapi.api_node import ENV, NODE, Pki, Ran, command, execute, first_output, settings
from tests.support.agent import Machine, docker, soon, worker
from tests.support.etcd import Authority, Certificate, EtcdServer, free_ports
from tests.support.need import need_docker, need_etcd
from tests.support.until import until

pytestmark = [pytest.mark.docker, pytest.mark.etcd]


class _AuthorityOf(Authority):
    """A :class:`Pki` where an authority for etcd is wanted: one cluster has one."""

    def __init__(self, pki: Pki) -> None:
        self._pki = pki
        self.ca_cert = pki.authority

    def issue(self, common_name: str, *, server: bool = False) -> Certificate:
        made = self._pki.files(common_name, *((ETCD_SERVER_NAME, "127.0.0.1") if server else ()))
        return Certificate(made.certificate, made.key)


@dataclass
class Cluster:
    """An etcd, and one node whose agent has its certificate from the same authority."""

    pki: Pki
    server: EtcdServer
    machine: Machine
    address: str

    def start(self, *more: str) -> None:
        self.machine.start("--api-listen", self.address, *more)

    @property
    def agent(self) -> AgentEndpoint:
        return AgentEndpoint(NODE, self.machine.uid, self.address)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Pki, EtcdServer]]:
    need_docker()
    need_etcd()
    pki = Pki(tmp_path / "pki")
    with EtcdServer(tmp_path / "etcd", authority=_AuthorityOf(pki)) as running:
        yield pki, running


@pytest.fixture
async def cluster(server: tuple[Pki, EtcdServer], tmp_path: Path) -> AsyncIterator[Cluster]:
    pki, etcd_server = server
    async with Etcd(etcd_server.settings(user="root")) as etcd:
        machine = Machine(etcd, etcd_server.settings(), tmp_path)
        node = pki.node(machine.uid)
        machine.settings = replace(machine.settings, ca_cert=node.authority, cert=node.certificate, key=node.key)
        (port,) = free_ports(1)
        try:
            yield Cluster(pki, etcd_server, machine, f"127.0.0.1:{port}")
        finally:
            await asyncio.to_thread(machine.clean)


async def _heartbeat(machine: Machine) -> Heartbeat:
    beat = await soon("a heartbeat", machine.heartbeat)
    assert beat is not None
    return beat


async def test_agent_publishes_api_address_and_answers(cluster: Cluster) -> None:
    machine = cluster.machine
    cluster.address = "127.0.0.1:0"
    cluster.start()
    await machine.assign(worker("web", "sh", "-c", "echo hello; sleep 1000"))
    await machine.settled()
    beat = await _heartbeat(machine)
    assert beat.api_address.startswith("127.0.0.1:")
    assert not beat.api_address.endswith(":0")
    agent = AgentEndpoint(NODE, machine.uid, beat.api_address)
    async with connect(settings(cluster.pki.files("operator:ann")), agent) as stub:
        answer = await anext(aiter(stub.Logs(LogsRequest(environment=str(ENV), lines=-1))))
        assert [line.line for line in answer.lines] == [b"hello"]
        assert (await execute(stub, command("web", "sh", "-c", "exit 42"))).exit_code == 42
        diagnosis = await stub.Diagnose(DiagnoseRequest())
        # As this machine is.
        assert {check.name for check in diagnosis.checks if not check.ok} <= {"disk", "memory", "isolation"}
        assert 0 < diagnosis.agent_memory_mib < 128, diagnosis
    async with connect(settings(cluster.pki.files("node:n2")), agent) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="only operators may ask an agent"):
            await stub.Diagnose(DiagnoseRequest())
    assert machine.kill(signal.SIGTERM) == 0


async def test_a_clean_end_waits_for_no_caller(cluster: Cluster) -> None:
    machine = cluster.machine
    cluster.start()
    await machine.assign(worker("web", "sh", "-c", "echo hello; sleep 1000"))
    status = await machine.settled()
    async with connect(settings(cluster.pki.files("root")), cluster.agent) as stub:
        following = aiter(stub.Logs(LogsRequest(environment=str(ENV), follow=True, lines=-1)))
        await anext(following)
        call, seen = stub.Exec(), Ran()
        await call.write(command("web", "sh", "-c", "echo ready; sleep 77"))
        await first_output(call, seen)
        assert machine.kill(signal.SIGTERM) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(following)
    until("it has ended", lambda: "sleep 77" not in docker("top", status.services[0].container))


async def test_another_address_can_be_told(cluster: Cluster) -> None:
    cluster.start("--api-advertise", "n1.example.org:7443")
    beat = await _heartbeat(cluster.machine)
    assert beat.api_address == "n1.example.org:7443"


async def test_agent_answers_from_disk_without_etcd(cluster: Cluster) -> None:
    machine = cluster.machine
    cluster.start()
    await machine.assign(worker("web", "sleep", "1000"))
    await machine.settled()
    machine.kill()
    cluster.server.kill()
    cluster.start()
    async with connect(settings(cluster.pki.files("root")), cluster.agent) as stub:

        async def answers() -> bool:
            try:
                return (await execute(stub, command("web", "true"))).exit_code == 0
            except grpc.aio.AioRpcError:
                return False

        await soon("a command runs", answers)
        checks = {check.name: check for check in (await stub.Diagnose(DiagnoseRequest())).checks}
    assert checks["docker"].ok
    assert not checks["etcd"].ok


async def test_a_task_that_a_killed_agent_left_behind_is_removed_by_the_next(cluster: Cluster) -> None:
    machine = cluster.machine
    cluster.start()
    await machine.assign(worker("web", "sleep", "1000"))
    await machine.settled()
    start = RunRequest()
    start.start.environment = str(ENV)
    task = workload_pb2.Task(name="report", service="web", command=["sh", "-c", "echo ready; sleep 1000"])
    start.start.task.CopyFrom(task)
    async with connect(settings(cluster.pki.files("root")), cluster.agent) as stub:
        call, seen = stub.RunTask(), Ran()
        await call.write(start)
        await first_output(call, seen)
        assert len(machine.containers()) == 2
        machine.kill()
    cluster.start()

    async def gone() -> bool:
        return len(await asyncio.to_thread(machine.containers)) == 1

    await soon("the task's container is gone", gone)
    await machine.settled()


async def test_the_engine_going_is_a_refusal_and_its_return_an_answer(cluster: Cluster) -> None:
    machine = cluster.machine
    cluster.start("--docker-host", "unix:///nowhere.sock")
    async with connect(settings(cluster.pki.files("root")), cluster.agent) as stub:

        async def answers() -> list[str]:
            try:
                checks = (await stub.Diagnose(DiagnoseRequest(), wait_for_ready=True)).checks
            except grpc.aio.AioRpcError:
                return []
            return [check.message for check in checks if check.name == "docker" and not check.ok]

        assert "does not answer" in (await soon("a diagnosis", answers))[0]
    assert machine.kill(signal.SIGTERM) == 0


def test_command_line_refuses_invalid_options(server: tuple[Pki, EtcdServer], tmp_path: Path) -> None:
    pki, etcd_server = server
    node = pki.node("u1")
    agent = [sys.executable, "-m", "devopsellence.nodeagent", "--node", NODE, "--node-uid", "u1"]
    agent += ["--state-dir", str(tmp_path / "state"), "--etcd-endpoints", etcd_server.endpoint]
    files = ["--etcd-ca-cert", node.authority, "--etcd-cert", node.certificate, "--etcd-key", node.key]

    def refused(*arguments: object) -> tuple[int, str]:
        given = [*agent, *map(str, arguments)]
        done = subprocess.run(given, capture_output=True, text=True, check=False, timeout=30)
        return done.returncode, done.stderr

    code, words = refused("--api-listen", "127.0.0.1:0")
    assert code == 2
    assert "--api-listen needs a certificate" in words
    code, words = refused(*files, "--api-listen", "7443")
    assert code == 2
    assert "is not host:port" in words
    code, words = refused(*files, "--api-listen", etcd_server.endpoint)
    assert code == 1
    assert f"the API cannot listen at {etcd_server.endpoint}" in words
