"""Heartbeat: written by a running agent, gone soon after the agent, unchanged while nothing changes."""

from __future__ import annotations

import os
import signal

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat
from tests.support.agent import AgentNode
from tests.support.until import eventually

pytestmark = [pytest.mark.docker, pytest.mark.etcd]


async def _beat(node: AgentNode) -> Heartbeat:
    async def whole() -> Heartbeat | None:
        beat = await node.heartbeat()
        return beat if beat is not None and beat.HasField("disk") else None

    value = await eventually("a heartbeat that knows the disk", whole)
    assert value is not None
    return value


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_heartbeat_expires_when_agent_is_killed(node: AgentNode, how: signal.Signals) -> None:
    node.start()
    before = await _beat(node)
    os.kill(node.pid, how)
    try:
        # The bound tells "never" alone.
        await eventually("the heartbeat is gone", lambda: _gone(node), seconds=60)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    if how is signal.SIGSTOP:
        # It notices that its lease has run out, and is back.
        after = await _beat(node)
        assert after.uid == before.uid


async def test_heartbeat_reports_disk_and_is_rarely_written(node: AgentNode) -> None:
    node.start()
    beat = await _beat(node)
    assert 0 <= beat.disk.free_mib <= beat.disk.total_mib
    assert beat.docker_version
    record = await node.etcd.get(node.etcd.keys.heartbeat(node.name))
    assert record is not None
    # That it is there, that it has found the engine, how much room that has.
    assert record.version <= 3


async def _gone(node: AgentNode) -> bool:
    return await node.heartbeat() is None
