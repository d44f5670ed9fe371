"""Heartbeat of the agent: a key in etcd, bound to a lease kept alive by the agent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import Keys
from devopsellence.store.lease import Lease, LeaseKeeper
from devopsellence.store.retry import REFUSED_SECONDS, is_refused

#: Seconds from the end of the agent to the end of the key.
LEASE_TTL: Final = 10
#: Interval of checks while another machine writes this node's heartbeat.
STAND_BY_SECONDS: Final = 5.0
_USUAL: Final = wait_exponential(multiplier=0.2, max=3.0) + wait_random(0, 0.5)
#: Backoff after refused access, which seldom changes: the node was removed, or registered again with another machine.
_REFUSED: Final = wait_exponential(multiplier=0.5, max=REFUSED_SECONDS) + wait_random(0, 0.5)
_log = structlog.get_logger()


class HeartbeatWriter:
    """Writes ``heartbeats/<node>`` on changes, and keeps the key alive through its lease.

    If two machines use the same node name, the machine with the node's registered uid owns the key. The other machine
    writes only without a competing heartbeat, so that its wrong uid becomes visible.
    """

    def __init__(self, etcd: Etcd, keys: Keys, keeper: LeaseKeeper, beat: stored_pb2.Heartbeat) -> None:
        self._etcd = etcd
        self._keys = keys
        self._keeper = keeper
        self._beat = beat
        self._changed = asyncio.Event()
        self._lease: Lease | None = None

    def update(self, *, problem: str, docker_version: str, without_engine: bool) -> None:
        """Set the agent's problem and Docker version, and whether the Docker Engine is gone; written if changed."""
        beat = self._beat
        if (problem, docker_version, without_engine) != (beat.problem, beat.docker_version, beat.without_engine):
            beat.problem, beat.docker_version, beat.without_engine = problem, docker_version, without_engine
            self._changed.set()

    def set_disk(self, disk: stored_pb2.DiskSpace) -> None:
        """Set the disk space of the engine; written if changed."""
        if disk != self._beat.disk:
            self._beat.disk.CopyFrom(disk)
            self._changed.set()

    def set_router_address(self, address: str) -> None:
        """Set the router's address for peers, "" for none; written if changed."""
        if address != self._beat.router_address:
            self._beat.router_address = address
            self._changed.set()

    async def run(self) -> None:
        """Keep the heartbeat until cancelled."""
        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(StoreError),
                wait=lambda state: (_REFUSED if is_refused(state) else _USUAL)(state),
                before_sleep=self._failed,
            )
            await retrying(self._write)
            lease = self._lease
            waits = [asyncio.create_task(self._changed.wait())]
            if lease is not None:
                waits.append(asyncio.create_task(lease.lost.wait()))
            try:
                await asyncio.wait(
                    waits,
                    return_when=asyncio.FIRST_COMPLETED,
                    timeout=None if lease is not None else STAND_BY_SECONDS,
                )
            finally:
                for wait in waits:
                    wait.cancel()

    async def close(self) -> None:
        """Revoke the lease, so that the key vanishes at once. StoreError if etcd does not answer; the lease expires
        then."""
        if self._lease is not None and not self._lease.lost.is_set():
            await self._lease.revoke()

    def _failed(self, state: RetryCallState) -> None:
        error = str(state.outcome and state.outcome.exception())
        if is_refused(state):
            _log.error(
                "etcd denies access to this machine; was the node removed, or registered with another machine?",
                node=self._beat.node,
                uid=self._beat.uid,
                error=error,
            )
        else:
            _log.warning("cannot write the heartbeat", error=error)

    async def _write(self) -> None:
        if not await self._may_write():
            return
        if self._lease is None or self._lease.lost.is_set():
            self._lease = await self._keeper.grant(LEASE_TTL)
        self._changed.clear()
        await self._etcd.put(self._keys.heartbeat(self._beat.node), encode(self._beat), lease=self._lease.id)

    async def _may_write(self) -> bool:
        """Return True if this agent may write the key."""
        key = self._keys.heartbeat(self._beat.node)
        current = await self._etcd.get(key)
        if current is None or (self._lease is not None and current.lease == self._lease.id):
            return True
        other_uid = ""
        with suppress(MalformedRecord):
            other_uid = decode(stored_pb2.Heartbeat, key, current.value).uid
        if other_uid in ("", self._beat.uid) or await self._registered_uid() == self._beat.uid:
            return True
        _log.warning(
            "another machine writes this node's heartbeat",
            node=self._beat.node,
            uid=self._beat.uid,
            other_uid=other_uid,
        )
        self._lease = None
        return False

    async def _registered_uid(self) -> str:
        key = self._keys.node(self._beat.node)
        record = await self._etcd.get(key)
        if record is None:
            return ""
        with suppress(MalformedRecord):
            return decode(stored_pb2.Node, key, record.value).uid
        return ""
