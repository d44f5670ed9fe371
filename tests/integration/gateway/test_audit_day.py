"""The audit of a day, read by somebody else: who deployed, who ran which command where, who was refused.

With a controller, an agent on a real engine, and the command line, all of which are killed and started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from devopsellence.access.roles import Role
from devopsellence.api.v1.agent_pb2 import RunRequest
from devopsellence.cli.agent.client import AgentEndpoint, connect, wait_accepted
from devopsellence.store.errors import PermissionDenied
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.agentapi.api_node import CommandResult
from tests.integration.cli.secret_operator import Operator
from tests.integration.gateway import test_commands
from tests.integration.gateway.test_commands import CONFIG, Shop, process
from tests.support.agent import AgentNode
from tests.support.authority import Authority
from tests.support.cli import REF
from tests.support.controller import ControllerProcess
from tests.support.gateway_cluster import gateway_options
from tests.support.images import IMAGE, small_image
from tests.support.need import need_docker
from tests.support.ports import free_port
from tests.support.until import eventually

pytestmark = [pytest.mark.docker, pytest.mark.etcd]

agent = test_commands.agent
SECRET = "s3cret-of-the-day"


class AuditedShop(Shop):
    """A shop whose controller keeps an audit trail and can be started again."""

    log: Path
    options: tuple[str, ...]

    async def start_again(self) -> None:
        self.controller = ControllerProcess(self.direct, self.log, *self.options)
        await self.controller.logged("gateway started")


@pytest.fixture
async def shop(
    etcd: Etcd, settings: Settings, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AuditedShop]:
    need_docker()
    small_image()
    (tmp_path / ".git").mkdir()
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    (tmp_path / "app" / "devopsellence.yml").write_text(CONFIG.replace("IMAGE", IMAGE))
    port = free_port()
    options = (*gateway_options(authority.issue_server("controller"), port), f"--audit-dir={tmp_path / 'audit'}")
    log = tmp_path / "controller.log"
    controller = ControllerProcess(settings, log, *options)
    running = AuditedShop(etcd, settings, authority, controller, f"127.0.0.1:{port}")
    running.log, running.options = log, options
    try:
        await controller.logged("gateway started")
        yield running
    finally:
        running.controller.end()


async def attempt(settings: Settings, endpoint: AgentEndpoint, *words: str) -> CommandResult:
    """Run a command as a client that asks nobody for its rights.

    Raises:
        AioRpcError: the agent refuses.
    """

    async def requests() -> AsyncIterator[RunRequest]:
        await wait_accepted(call)
        start = RunRequest()
        start.start.environment = str(REF)
        start.start.command.service = "jobs"
        start.start.command.command.extend(words)
        yield start

    result = CommandResult()
    async with connect(settings, endpoint) as stub:
        call = stub.Exec(requests())
        async for answer in call:
            result.add(answer)
    return result


async def endpoint_of(node: AgentNode) -> AgentEndpoint:
    beat = await node.heartbeat()
    assert beat is not None
    return AgentEndpoint("n1", node.uid, beat.api_address)


def told(entries: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return who, outcome, node and request of each entry, without reads of secrets and further events."""
    shown = [
        (entry["who"], entry["outcome"], entry["reported_by"], " ".join([entry["summary"], *entry["command"]]))
        for entry in entries
    ]
    return [entry for entry in shown if not entry[3].startswith(("read secrets", "write events"))]


async def shown(reader: Operator, *words: str) -> list[dict[str, Any]]:
    found = await asyncio.to_thread(reader.json, "audit", *words)
    entries: list[dict[str, Any]] = found["entries"]
    return entries


async def test_day_is_read_by_somebody_else(shop: AuditedShop, agent: AgentNode, tmp_path: Path) -> None:
    ann = await asyncio.to_thread(shop.operator, "ann", str(REF))
    vic = await asyncio.to_thread(shop.with_role, Role.VIEWER, str(REF))
    amy = await asyncio.to_thread(shop.with_role, Role.ADMIN, "*")
    await asyncio.to_thread(lambda: ann.set("TOKEN", SECRET.encode(), service="jobs"))
    await asyncio.to_thread(ann.ok, "deploy")
    ran = await asyncio.to_thread(process, ann, "exec", "jobs", "--", "sh", "-c", f"echo {SECRET}; exit 3")
    assert (ran.returncode, ran.stdout) == (3, f"{SECRET}\n"), ran.stderr
    assert (await asyncio.to_thread(process, ann, "task", "run", "hello")).returncode == 0
    assert (await asyncio.to_thread(process, ann, "logs", "jobs")).returncode == 0
    await asyncio.to_thread(amy.ok, "node", "cordon", "n1")
    with pytest.raises(grpc.aio.AioRpcError, match="viewer lacks the role exec"):
        await attempt(vic.settings, await endpoint_of(agent), "cat", "/etc/shadow")
    async with Etcd(vic.settings) as etcd:
        with pytest.raises(PermissionDenied):
            await etcd.delete(etcd.keys.secret(REF, "jobs", "TOKEN"))

    async def refused() -> list[dict[str, Any]]:
        return await shown(amy, "--since", "1h", "--refused", "--by", "viewer")

    # Reported by the agent, and then all before it as well.
    await eventually("both refusals are told", refused, lambda entries: len(entries) == 2)
    entries = await shown(amy, "--since", "1h", "--env", str(REF))
    execute = f"exec in jobs of {REF} sh -c echo [secret]; exit 3"
    task = f"run task hello in jobs of {REF} /bin/echo hello"
    expected = {
        ("ann", "allowed", "", f"set secret TOKEN of jobs in {REF}"),
        ("ann", "allowed", "", f"deploy release 1 of {REF}"),
        ("ann", "allowed", "n1", execute),
        ("ann", "ended", "n1", execute),
        ("ann", "allowed", "n1", task),
        ("ann", "ended", "n1", task),
        ("ann", "allowed", "n1", f"read the logs of jobs in {REF}"),
        ("viewer", "refused", "n1", f"exec in jobs of {REF} cat [not shown]"),
        ("viewer", "refused", "", f"delete secret TOKEN of jobs in {REF}"),
    }
    assert expected <= set(told(entries))
    assert len([entry for entry in entries if entry["reported_by"]]) == 6
    codes = {entry["summary"]: entry["exit_code"] for entry in entries if entry["outcome"] == "ended"}
    assert codes == {f"exec in jobs of {REF}": 3, f"run task hello in jobs of {REF}": 0}
    assert {entry["from"].partition(":")[0] for entry in entries} == {"127.0.0.1"}
    assert ("admin", "allowed", "", "cordon node n1") in told(await shown(amy, "--node", "n1"))
    # The same name that the certificate has, as in the list of releases.
    (release,) = (await asyncio.to_thread(ann.json, "release", "list"))["releases"]
    assert release["created_by"].partition("@")[0] == "ann"
    for folder in ("audit", "state"):
        files = [file for file in (tmp_path / folder).rglob("*.jsonl") if file.is_file()]
        assert not any(SECRET in file.read_text() for file in files)


async def test_command_of_an_agent_that_is_killed_before_it_could_report_is_told_once(
    shop: AuditedShop, agent: AgentNode, tmp_path: Path
) -> None:
    ann = await asyncio.to_thread(shop.operator, "ann", str(REF))
    amy = await asyncio.to_thread(shop.with_role, Role.ADMIN, "*")
    await asyncio.to_thread(lambda: ann.set("TOKEN", SECRET.encode(), service="jobs"))
    await asyncio.to_thread(ann.ok, "deploy")
    endpoint = await endpoint_of(agent)
    await asyncio.to_thread(shop.controller.end)
    # The agent goes on by what it knows.
    assert (await attempt(ann.settings, endpoint, "echo", "hello")).stdout == b"hello\n"
    spool = tmp_path / "state" / "audit.jsonl"

    async def spooled() -> int:
        return len(spool.read_bytes().splitlines()) if await asyncio.to_thread(spool.exists) else 0

    await eventually("begin and end are on disk", spooled, lambda lines: lines == 2)
    await asyncio.to_thread(agent.kill)
    await shop.start_again()
    agent.start("--api-listen", "127.0.0.1:0")

    async def entries() -> list[tuple[str, str, str, str]]:
        result = await asyncio.to_thread(amy.run, "audit", "--node", "n1", "--by", "ann", "-o", "json")
        return told(await shown(amy, "--node", "n1", "--by", "ann")) if result.exit_code == 0 else []

    execute = f"exec in jobs of {REF} echo hello"
    expected = [("ann", "allowed", "n1", execute), ("ann", "ended", "n1", execute)]
    await eventually("the command is told", entries, lambda found: found[-2:] == expected)
    await eventually("the spool is empty", spooled, lambda lines: lines == 0)
    assert [entry for entry in await entries() if entry[3] == execute] == expected
