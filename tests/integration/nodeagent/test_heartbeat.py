"""Heartbeat: written by a running agent, gone soon after the agent, unchanged while nothing changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat
from tests.support.agent import ENV, AgentNode, Status, worker
from tests.support.docker import docker
from tests.support.process import log_lines
from tests.support.until import eventually

ANOTHER_AGENT = (
    "another agent runs with the uid of this node: stop one of them; a cloned machine needs a registration of its own"
)
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


async def test_second_agent_with_the_uid_of_a_node_is_named_and_reports_nothing(
    node: AgentNode, tmp_path: Path
) -> None:
    second = AgentNode(node.etcd, node.settings, tmp_path / "second")
    second.folder.mkdir()
    second.uid = node.uid
    node.start()
    first = await _beat(node)
    await node.assign(worker("job"))
    await node.until("settled", lambda status: status.phase == Status.SETTLED)
    second.start()
    try:

        async def both() -> Heartbeat | None:
            beat = await node.heartbeat()
            return beat if beat is not None and beat.others else None

        named = await eventually("both agents are named", both)
        assert named is not None
        assert named.instance == first.instance
        key = node.etcd.keys.status(node.name, ENV)
        deleted = await node.etcd.delete(key)
        # Written anew, and by the first: the second has logged why it does not.
        status = await node.until("a status", lambda status: status.phase == Status.SETTLED)
        assert status.node_uid == node.uid
        record = await node.etcd.get(key)
        assert record is not None
        assert record.create_revision > deleted
        lines = log_lines(second.log, ANOTHER_AGENT)
        assert [(line["other_instance"], line["reports"]) for line in lines] == [(first.instance, "the other")]
        # Nor does it act: the first alone replaces a container that was removed.
        before = status.services[0].container
        docker("rm", "--force", before)
        await node.until("another", lambda status: status.services[0].container not in ("", before))
        assert log_lines(second.log, "action") == []
        assert node.kill(signal.SIGTERM) == 0

        async def taken() -> bool:
            beat = await node.heartbeat()
            return beat is not None and beat.instance == lines[0]["instance"]

        await eventually("the second agent takes over", taken)
    finally:
        second.clean()
