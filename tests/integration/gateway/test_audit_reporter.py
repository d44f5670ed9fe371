"""An agent's reports: kept on disk while no gateway takes them, sent later, told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import new_id
from devopsellence.cli.audit.merge import merged
from devopsellence.nodeagent.audit.reporter import AuditReporter
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.gateway.test_audit import becomes, read
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


def entry(summary: str) -> AuditEntry:
    return AuditEntry(id=new_id(), caller="operator:ann", call="Exec", summary=summary, outcome=AuditEntry.ALLOWED)


@asynccontextmanager
async def reporter(settings: Settings, path: Path) -> AsyncIterator[AuditReporter]:
    """Run the reporter of node n1. At the end it is gone as after SIGKILL: nothing is written any more."""
    with StateFolder(path) as folder:
        async with Etcd(settings, timeout=1.0) as etcd:
            made = AuditReporter(NodeContext(etcd, "n1", "uid-n1", folder, ThreadPool(1, "disk")))
            await made.load()
            running = asyncio.create_task(made.run())
            try:
                yield made
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def spooled(path: Path, *texts: str) -> None:
    """Return once the file on disk has these texts, in as many lines."""

    async def lines() -> list[bytes]:
        file = path / "audit.jsonl"
        return file.read_bytes().splitlines() if await asyncio.to_thread(file.exists) else []

    def matches(found: list[bytes]) -> bool:
        return len(found) == len(texts) and all(text.encode() in line for text, line in zip(texts, found, strict=True))

    await eventually(f"the spool has {texts}", lines, matches)


async def test_entries_are_sent_and_the_spool_is_empty_again(audited: RunningGateway, tmp_path: Path) -> None:
    await audited.register("n1")
    state = tmp_path / "state"
    async with reporter(audited.node("n1"), state) as agent:
        agent.add(entry("one"))
        agent.add(entry("two"))
        entries = await becomes(audited.root(), 2)
        assert [found.summary for found in entries] == ["one", "two"]
        assert {(found.reported_by, found.nodes[0], found.HasField("node_time")) for found in entries} == {
            ("n1", "n1", True)
        }
        await spooled(state)


async def test_entries_of_a_killed_agent_are_sent_by_the_next(audited: RunningGateway, tmp_path: Path) -> None:
    await audited.register("n1")
    state = tmp_path / "state"
    # No gateway admits it.
    async with reporter(audited.node("unknown"), state) as agent:
        agent.add(entry("one"))
        await spooled(state, "one")
    assert await read(audited.root(), node="n1") == []
    async with reporter(audited.node("n1"), state) as agent:
        (found,) = await becomes(audited.root(), 1, node="n1")
        assert found.summary == "one"
        await spooled(state)
    # Sent again, as if the agent had been killed between the answer and the file.
    async with reporter(audited.node("n1"), state) as agent:
        agent.add(found)
        entries = await becomes(audited.root(), 2, node="n1")
    assert [each.summary for each in merged(entries)] == ["one"]


async def test_entries_wait_for_a_gateway_that_can_write(
    audited: RunningGateway, gateway: RunningGateway, tmp_path: Path
) -> None:
    # This one keeps no trail.
    await gateway.register("n1")
    await audited.register("n1")
    state = tmp_path / "state"
    async with reporter(gateway.node("n1"), state) as agent:
        agent.add(entry("one"))
        await spooled(state, "one")
    async with reporter(audited.node("n1"), state):
        assert [found.summary for found in await becomes(audited.root(), 1)] == ["one"]


async def test_full_disk_of_a_gateway_loses_nothing(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.register("n1")
    folder = tmp_path / "audit"
    await asyncio.to_thread(folder.write_text, "in the way")
    async with running_gateway(gateway.direct.settings, gateway.authority, audit=folder) as broken:
        await broken.register("n1")
        async with reporter(broken.node("n1"), tmp_path / "state") as agent:
            agent.add(entry("one"))
            await spooled(tmp_path / "state", "one")
            await asyncio.to_thread(folder.unlink)
            assert [found.summary for found in await becomes(broken.root(), 1, node="n1")] == ["one"]
