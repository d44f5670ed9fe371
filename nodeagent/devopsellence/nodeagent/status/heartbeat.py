"""The heartbeat: a key bound to a lease that lives as long as the agent does."""

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

#: Seconds until the key is gone after the agent is.
LEASE_TTL: Final = 10
#: While another machine has this node's name and a heartbeat.
STAND_BY_SECONDS: Final = 5.0
_USUAL: Final = wait_exponential(multiplier=0.2, max=3.0) + wait_random(0, 0.5)
#: etcd knows us no more, and that seldom changes: another machine was registered under this node's name, or none is.
_REFUSED: Final = wait_exponential(multiplier=0.5, max=REFUSED_SECONDS) + wait_random(0, 0.5)
_log = structlog.get_logger()


class HeartbeatWriter:
    """Keeps ``heartbeats/<node>``; written when it changes, kept by the lease alone.

    When two machines have the same name, the one whose uid is the node's has the key; the other writes it only where
    nobody else does, so that its uid can be seen to be the wrong one.
    """

    def __init__(self, etcd: Etcd, keys: Keys, keeper: LeaseKeeper, beat: stored_pb2.Heartbeat) -> None:
        self._etcd = etcd
        self._keys = keys
        self._keeper = keeper
        self._beat = beat
        self._changed = asyncio.Event()
        self._lease: Lease | None = None

    def update(self, *, problem: str, docker_version: str) -> None:
        """What the agent says of itself from now on; written if it is something new."""
        if (problem, docker_version) != (self._beat.problem, self._beat.docker_version):
            self._beat.problem, self._beat.docker_version = problem, docker_version
            self._changed.set()

    def set_disk(self, disk: stored_pb2.DiskSpace) -> None:
        """How much room the engine has from now on; written if it is something new."""
        if disk != self._beat.disk:
            self._beat.disk.CopyFrom(disk)
            self._changed.set()

    def set_router_address(self, address: str) -> None:
        """Where other nodes' routers reach this one's from now on, "" nowhere; written if it is something new."""
        if address != self._beat.router_address:
            self._beat.router_address = address
            self._changed.set()

    async def run(self) -> None:
        """Keep it until cancelled."""
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
        """A clean end: the key goes at once. StoreError if etcd does not answer; then the lease runs out."""
        if self._lease is not None and not self._lease.lost.is_set():
            await self._lease.revoke()

    def _failed(self, state: RetryCallState) -> None:
        error = str(state.outcome and state.outcome.exception())
        if is_refused(state):
            _log.error(
                "etcd refuses this machine; was it replaced or removed as a node?",
                node=self._beat.node,
                uid=self._beat.uid,
                error=error,
            )
        else:
            _log.warning("the heartbeat could not be written", error=error)

    async def _write(self) -> None:
        if not await self._ours():
            return
        if self._lease is None or self._lease.lost.is_set():
            self._lease = await self._keeper.grant(LEASE_TTL)
        self._changed.clear()
        await self._etcd.put(self._keys.heartbeat(self._beat.node), encode(self._beat), lease=self._lease.id)

    async def _ours(self) -> bool:
        """May this agent write the key?"""
        key = self._keys.heartbeat(self._beat.node)
        found = await self._etcd.get(key)
        if found is None or (self._lease is not None and found.lease == self._lease.id):
            return True
        other = ""
        with suppress(MalformedRecord):
            other = decode(stored_pb2.Heartbeat, key, found.value).uid
        if other in ("", self._beat.uid) or await self._registered_uid() == self._beat.uid:
            return True
        _log.warning(
            "another machine answers to this node's name", node=self._beat.node, uid=self._beat.uid, other_uid=other
        )
        self._lease = None
        return False

    async def _registered_uid(self) -> str:
        key = self._keys.node(self._beat.node)
        found = await self._etcd.get(key)
        if found is None:
            return ""
        with suppress(MalformedRecord):
            return decode(stored_pb2.Node, key, found.value).uid
        return ""
