"""Heartbeat of the agent: a key in etcd, bound to a lease kept alive by the agent.

The key is watched: whoever deletes or replaces it, it is written again at once, unless another agent owns it (see
``heartbeat_owner``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from devopsellence.api.v1 import stored_pb2
from devopsellence.certificates.renewal import InstalledCertificate
from devopsellence.nodeagent.status.heartbeat_owner import (
    AgentProcess,
    HeartbeatDecision,
    HeartbeatRole,
    StoredHeartbeat,
    decide,
    instance_of,
    is_of_other_machine,
    without,
)
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import LeaseLost, MalformedRecord, StoreError
from devopsellence.store.etcd import Compare, Etcd, KeyValue, Put
from devopsellence.store.informer import Informer
from devopsellence.store.keys import Keys
from devopsellence.store.lease import Lease, LeaseKeeper
from devopsellence.store.record import revision_of
from devopsellence.store.retry import REFUSED_SECONDS, is_refused
from devopsellence.store.size import bounded

#: Seconds from the end of the agent to the end of the key.
LEASE_TTL: Final = 10
#: Interval at which other agents with the same uid have to confirm that they still run. Nothing of theirs can expire:
#: a node may write no further key. Without others, nothing is asked.
CONFIRM_SECONDS: Final = 60.0
# Attempts at once after somebody else's write at the same time, or a lease that has just ended; then with backoff.
_ATTEMPTS_AT_ONCE: Final = 3
_USUAL: Final = wait_exponential(multiplier=0.2, max=3.0) + wait_random(0, 0.5)
#: Backoff after refused access, which seldom changes: the node was removed, or registered again with another machine.
_REFUSED: Final = wait_exponential(multiplier=0.5, max=REFUSED_SECONDS) + wait_random(0, 0.5)
_log = structlog.get_logger()


class _Contended(StoreError):
    """The key was written by others again and again."""


class HeartbeatWriter:
    """Writes ``heartbeats/<node>`` on changes, and keeps the key alive through its lease.

    ``on_ownership`` is called on the event loop with the first answer, and on every change: True if this agent owns the
    key, or another machine does; False while another agent with the same uid does. Then this agent must not report.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        keeper: LeaseKeeper,
        beat: stored_pb2.Heartbeat,
        process: AgentProcess,
        on_ownership: Callable[[bool], None],
    ) -> None:
        self._etcd = etcd
        self._keys = keys
        self._keeper = keeper
        self._beat = beat
        self._process = process
        self._on_ownership = on_ownership
        self._key = keys.heartbeat(beat.node)
        self._changed = asyncio.Event()
        self._lease: Lease | None = None
        self._role: HeartbeatRole | None = None
        # Revision of the last write of this agent.
        self._revision = 0
        # Other agents with the same uid as last logged, by instance.
        self._others: dict[str, stored_pb2.AgentInstance] = {}
        self._confirm = False
        self._informer = Informer(etcd, self._key, stored_pb2.Heartbeat, self._on_key)
        # Watched once another machine owns the key: a new registration may make this machine the owner.
        self._registration: asyncio.Task[None] | None = None

    def update(self, *, problem: str, docker_version: str, without_engine: bool) -> None:
        """Set the agent's problem and Docker version, and whether the Docker Engine is gone; written if changed."""
        beat = self._beat
        if (problem, docker_version, without_engine) != (beat.problem, beat.docker_version, beat.without_engine):
            beat.problem, beat.docker_version, beat.without_engine = problem, docker_version, without_engine
            self._changed.set()

    def set_folder_problem(self, problem: str) -> None:
        """Set why the agent cannot write its folder, "" if it can; written if changed."""
        if problem != self._beat.folder_problem:
            self._beat.folder_problem = problem
            self._changed.set()

    def set_disk(self, disk: stored_pb2.DiskSpace) -> None:
        """Set the disk space of the engine; written if changed."""
        if disk != self._beat.disk:
            self._beat.disk.CopyFrom(disk)
            self._changed.set()

    def set_networks_left(self, networks: int) -> None:
        """Set the number of networks that the engine can still create; written if changed."""
        if not self._beat.HasField("networks_left") or networks != self._beat.networks_left:
            self._beat.networks_left = networks
            self._changed.set()

    def set_certificate(self, certificate: InstalledCertificate) -> None:
        """Set the agent's own certificate; written if changed."""
        if certificate.serial != self._beat.certificate_serial:
            self._beat.certificate_serial = certificate.serial
            self._beat.certificate_expires_at.FromDatetime(certificate.life.ends)
            self._changed.set()

    def set_router_address(self, address: str) -> None:
        """Set the router's address for peers, "" for none; written if changed."""
        if address != self._beat.router_address:
            self._beat.router_address = address
            self._changed.set()

    def set_router_tls(self, tls: stored_pb2.RouterTls) -> None:
        """Set what the router uses towards other nodes' routers; written if changed."""
        if tls != self._beat.router_tls:
            self._beat.router_tls.CopyFrom(tls)
            self._changed.set()

    async def run(self) -> None:
        """Keep the heartbeat until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            while True:
                retrying = AsyncRetrying(
                    retry=retry_if_exception_type(StoreError),
                    wait=lambda state: (_REFUSED if is_refused(state) else _USUAL)(state),
                    before_sleep=self._failed,
                )
                await retrying(self._write)
                if self._role is HeartbeatRole.STAND_BY and self._registration is None:
                    node = self._keys.node(self._beat.node)
                    registration = Informer(self._etcd, node, stored_pb2.Node, lambda _: self._changed.set())
                    self._registration = group.create_task(registration.run())
                await self._until_due()

    async def close(self) -> None:
        """Revoke the lease, so that the key vanishes at once, or take this agent out of the heartbeat of another.

        StoreError if etcd does not answer; the lease expires then.
        """
        if self._role is HeartbeatRole.NAMED:
            stored = await self._etcd.get(self._key)
            beat = self._decoded(stored).beat if stored is not None else None
            if stored is not None and beat is not None and (left := without(beat, self._beat.instance)) is not None:
                await self._put(stored, left, stored.lease)
        if self._lease is not None and not self._lease.lost.is_set():
            await self._lease.revoke()

    async def _until_due(self) -> None:
        """Return after a change of the heartbeat or of the key, the end of the lease, or if others have to confirm."""
        waits = [asyncio.create_task(self._changed.wait())]
        # Only an owner needs its lease, and gets another one at the end.
        if self._lease is not None and self._role is HeartbeatRole.OWNER:
            waits.append(asyncio.create_task(self._lease.lost.wait()))
        has_to_ask = self._role is HeartbeatRole.OWNER and bool(self._others)
        try:
            done, _ = await asyncio.wait(
                waits, return_when=asyncio.FIRST_COMPLETED, timeout=CONFIRM_SECONDS if has_to_ask else None
            )
        finally:
            for wait in waits:
                wait.cancel()
        self._confirm = not done

    def _on_key(self, key: str) -> None:
        # The echo of this agent's own write is no news; the same value by somebody else may have no lease.
        if revision_of(self._informer.records.get(key)) != self._revision:
            self._changed.set()

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
        """Read the key, decide, and write if necessary.

        Raises:
            StoreError: etcd could not be read or written.
        """
        for _ in range(_ATTEMPTS_AT_ONCE):
            self._changed.clear()
            current = await self._etcd.get(self._key)
            stored = self._decoded(current) if current is not None else None
            lease = self._lease if self._lease is not None and not self._lease.lost.is_set() else None
            is_registered = is_of_other_machine(stored, self._beat) and await self._registered_uid() == self._beat.uid
            own = stored_pb2.Heartbeat()
            own.CopyFrom(self._beat)
            decision = decide(
                stored,
                bounded(own),
                lease.id if lease is not None else 0,
                self._process,
                is_registered=is_registered,
                confirm=self._confirm,
            )
            if await self._carry_out(decision, current, lease):
                self._note(decision, stored, asked=self._confirm)
                self._confirm = False
                return
        raise _Contended(f"{self._key} is being written by others")

    async def _carry_out(self, decision: HeartbeatDecision, current: KeyValue | None, lease: Lease | None) -> bool:
        """Write as decided; return False if the key has changed since, or if the lease has ended."""
        if decision.write is None:
            return True
        if decision.role is not HeartbeatRole.OWNER:
            try:
                return await self._put(current, decision.write, current.lease if current is not None else 0)
            except LeaseLost:
                # The other agent has just ended.
                return False
        if lease is None:
            lease = self._lease = await self._keeper.grant(LEASE_TTL)
        try:
            return await self._put(current, decision.write, lease.id)
        except LeaseLost:
            # Revoked by hand, or lost with a restored etcd, before its keepalive has found out.
            await lease.revoke()
            return False

    async def _put(self, current: KeyValue | None, beat: stored_pb2.Heartbeat, lease: int) -> bool:
        unchanged = Compare.unmodified(self._key, current.mod_revision if current is not None else 0)
        result = await self._etcd.txn([unchanged], [Put(self._key, encode(beat), lease)])
        if result.succeeded:
            self._revision = result.revision
        return result.succeeded

    def _decoded(self, current: KeyValue) -> StoredHeartbeat:
        with suppress(MalformedRecord):
            return StoredHeartbeat(decode(stored_pb2.Heartbeat, current.key, current.value), current.lease)
        return StoredHeartbeat(None, current.lease)

    def _note(self, decision: HeartbeatDecision, stored: StoredHeartbeat | None, *, asked: bool) -> None:
        """Log and report changes of the role and of the other agents; ``asked``: they have to confirm from now on."""
        before = stored.beat if stored is not None else None
        shown = decision.write or before or self._beat
        named = {} if decision.role is HeartbeatRole.STAND_BY else {other.instance: other for other in shown.others}
        if asked and before is not None:
            named = {other.instance: other for other in before.others}
        if decision.role is HeartbeatRole.NAMED:
            named[shown.instance] = instance_of(shown)
        named.pop(self._beat.instance, None)
        self._log_others(named, decision.role, asked=asked)
        if decision.role is HeartbeatRole.STAND_BY and self._role is not decision.role:
            _log.warning(
                "another machine writes this node's heartbeat",
                node=self._beat.node,
                uid=self._beat.uid,
                other_uid=shown.uid,
            )
        reported, self._role = self._role, decision.role
        if reported is None or (reported is HeartbeatRole.NAMED) != (decision.role is HeartbeatRole.NAMED):
            self._on_ownership(decision.role is not HeartbeatRole.NAMED)

    def _log_others(self, named: dict[str, stored_pb2.AgentInstance], role: HeartbeatRole, *, asked: bool) -> None:
        for instance, other in named.items():
            if instance not in self._others:
                _log.error(
                    "another agent runs with the uid of this node: stop one of them; "
                    "a cloned machine needs a registration of its own",
                    node=self._beat.node,
                    uid=self._beat.uid,
                    instance=self._beat.instance,
                    other_instance=instance,
                    other_hostname=other.hostname,
                    reports="this one" if role is HeartbeatRole.OWNER else "the other",
                )
        if role is HeartbeatRole.OWNER and not asked:
            # Those that have been asked to confirm count as running until they are asked the next time.
            self._others |= named
            return
        for instance in self._others.keys() - named.keys():
            _log.info("another agent with the uid of this node has ended", other_instance=instance)
        self._others = named

    async def _registered_uid(self) -> str:
        key = self._keys.node(self._beat.node)
        record = await self._etcd.get(key)
        if record is None:
            return ""
        with suppress(MalformedRecord):
            return decode(stored_pb2.Node, key, record.value).uid
        return ""
