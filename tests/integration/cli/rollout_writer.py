"""Progress of a rollout, written by the test in place of a controller and an agent."""

from __future__ import annotations

import asyncio

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
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from tests.support.cli import REF


def timestamp_now() -> Timestamp:
    """Return the present time."""
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


class RolloutWriter:
    """Writes the records of the controller and of node n1's agent about the newest release of :data:`REF`."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.number = 0
        self.uid = ""
        self.started = timestamp_now()

    async def begin(self, number: int) -> None:
        """Wait for release ``number``, then begin the rollout."""
        keys = self.etcd.keys
        while True:
            record = await self.etcd.get(keys.environment(REF))
            if record and decode(Environment, record.key, record.value).latest_release >= number:
                break
            await asyncio.sleep(0.02)
        self.number = number
        node = await self.etcd.get(keys.node("n1"))
        self.uid = decode(Node, node.key, node.value).uid if node else ""
        await self.etcd.put(keys.candidate(7), encode(Candidate(identity="test/1")))
        await self.etcd.put(keys.heartbeat("n1"), encode(Heartbeat(node="n1", uid=self.uid)))
        await self.rollout(Rollout.PROGRESSING, 0)

    async def rollout(self, phase: Rollout.Phase.ValueType, settled: int, reason: str = "") -> None:
        """Write the rollout."""
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
            finished_at=timestamp_now() if phase != Rollout.PROGRESSING else None,
        )
        await self.etcd.put(self.etcd.keys.rollout(REF), encode(message))

    async def status(self, service: ServiceStatus) -> None:
        """Write the status of node n1."""
        message = AssignmentStatus(node="n1", release=self.number, services=[service], node_uid=self.uid)
        await self.etcd.put(self.etcd.keys.status("n1", REF), encode(message))

    async def settle(self) -> None:
        """Settle the rollout with a healthy service web."""
        await self.status(
            ServiceStatus(
                name="web",
                phase=ServiceStatus.RUNNING,
                health=ServiceStatus.HEALTHY,
                address="172.18.0.9",
                started_at=timestamp_now(),
                release=self.number,
            )
        )
        await self.rollout(Rollout.SETTLED, 1)
