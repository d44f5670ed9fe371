"""Writing statuses: only what changed, not more often than people can read, and again when etcd has lost it.

What etcd holds is watched like everything else, so a status that was lost with a restored or emptied etcd is written
anew, and nothing is written while nothing changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.status.events import events, with_last_container
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.codec import encode
from devopsellence.store.election import batches
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.events import Journal
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.record import message_of
from devopsellence.store.retry import REFUSED_SECONDS, is_refused

#: Between two writes about one node while it converges. One write about thirty services costs about as much as
#: starting one of them leaves idle.
COALESCE_SECONDS: Final = 0.1
#: A write of ours that has not come back through the watch by then is not waited for any longer.
ECHO_SECONDS: Final = 5.0
_USUAL: Final = wait_exponential(multiplier=0.2, max=2.0) + wait_random(0, 0.5)
_REFUSED: Final = wait_exponential(multiplier=0.5, max=REFUSED_SECONDS) + wait_random(0, 0.5)
_log = structlog.get_logger()

BuildStatus: TypeAlias = Callable[[], stored_pb2.AssignmentStatus]


@dataclass(slots=True)
class _Report:
    """``build`` makes the newest status; ``made`` is what it made last, with its encoding. ``value`` is what was last
    written and ``echo`` until when (loop time) etcd is given the time to show it, ``kept`` what is on disk. ``told`` is
    the status up to which events were told."""

    build: BuildStatus
    made: tuple[stored_pb2.AssignmentStatus, bytes] | None = None
    #: Two writes at once could arrive in either order.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: bytes = b""
    kept: bytes = b""
    echo: float = 0.0
    told: stored_pb2.AssignmentStatus | None = None

    def make(self) -> tuple[stored_pb2.AssignmentStatus, bytes]:
        status = self.build()
        value = encode(status)
        if self.made is None or self.made[1] != value:
            self.made = (status, value)
        return self.made


class StatusWriter:
    """The statuses of one node. ``run`` writes them until cancelled."""

    def __init__(self, etcd: Etcd, keys: Keys, node: str, folder: StateFolder, disk: ThreadPool) -> None:
        self._etcd = etcd
        self._keys = keys
        self._node = node
        self._folder = folder
        self._disk = disk
        self._journal = Journal(etcd)
        self._reports: dict[EnvironmentRef, _Report] = {}
        self._dirty: set[EnvironmentRef] = set()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._informer = Informer(etcd, keys.statuses_prefix(node), stored_pb2.AssignmentStatus, self._on_change)

    def report(self, env: EnvironmentRef, build: BuildStatus, *, now: bool) -> None:
        """``build`` makes the status as it stands; it is called and written soon, or at once if ``now``."""
        known = self._reports.get(env)
        if known is None:
            self._reports[env] = _Report(build)
        else:
            known.build = build
        self._soon(env, 0.0 if now else COALESCE_SECONDS)

    def forget(self, env: EnvironmentRef) -> None:
        """Say nothing more about an environment; what etcd holds is left to the controller."""
        self._reports.pop(env, None)
        self._dirty.discard(env)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            # What etcd holds is asked for first, so that an agent that restarts does not repeat itself.
            await self._informer.synced()
            while True:
                await self._wake.wait()
                await self.flush()

    async def flush(self) -> None:
        """Write all that is not written yet; returns when it is."""
        self._wake.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dirty, self._dirty = self._dirty, set()
        try:
            async with asyncio.TaskGroup() as group:
                for env in sorted(dirty):
                    group.create_task(self._write(env))
        except asyncio.CancelledError:
            self._dirty |= dirty
            raise

    def _soon(self, env: EnvironmentRef, delay: float) -> None:
        self._dirty.add(env)
        if delay == 0:
            self._wake.set()
        elif self._timer is None and not self._wake.is_set():
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)

    async def _write(self, env: EnvironmentRef) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreError),
            wait=lambda state: (_REFUSED if is_refused(state) else _USUAL)(state),
            before_sleep=lambda state: _log.warning(
                "a status could not be written", env=str(env), error=str(state.outcome and state.outcome.exception())
            ),
        )
        # The newest each time: what is true by then, not what was when the first attempt was made.
        try:
            await retrying(self.write, env)
        except Exception:  # noqa: BLE001 - it is logged with its traceback, and the other environments go on
            _log.exception("a status could not be made", env=str(env))

    async def write(self, env: EnvironmentRef) -> None:
        """Write an environment's newest status, unless etcd has it. StoreError if that fails."""
        report = self._reports.get(env)
        if report is None:
            return
        await self._keep(env, report)
        async with report.lock:
            await self._write_report(env, report)

    async def _keep(self, env: EnvironmentRef, report: _Report) -> None:
        """Put the newest status on disk. Before etcd is asked for anything, and whatever write it is still to answer:
        who looks there while etcd is away is told what is, not what was."""
        _, value = report.make()
        if value == report.kept:
            return
        report.kept = value
        try:
            await self._disk.run(lambda: self._folder.save_status(env, value))
        except OSError as error:
            _log.warning("a status could not be kept on disk", env=str(env), error=str(error))

    async def _write_report(self, env: EnvironmentRef, report: _Report) -> None:
        # Made anew only if there is news since: while the disk was written, or another write was waited for.
        status, value = report.make() if report.made is None or env in self._dirty else report.made
        if self._holds(env, report, value):
            report.value = value
            return
        # Before the write, because its echo may come before its answer.
        before = report.told or self._stored(env)
        key = self._keys.status(self._node, env)
        self._informer.expect(key, value, status)
        if status.phase == stored_pb2.AssignmentStatus.REMOVED:
            # The controller deletes both keys once it has read this: it must not come back after that.
            assignment = self._keys.assignment(self._node, env)
            await self._etcd.txn([Compare.exists(assignment)], [Put(key, value)])
        else:
            await self._etcd.put(key, value)
        report.value = value
        report.echo = asyncio.get_running_loop().time() + ECHO_SECONDS
        report.told = with_last_container(before, status)
        await self._tell(env, events(before, status))

    def _stored(self, env: EnvironmentRef) -> stored_pb2.AssignmentStatus | None:
        """What etcd held when it was last heard of."""
        record = self._informer.records.get(self._keys.status(self._node, env))
        return message_of(record)

    async def _tell(self, env: EnvironmentRef, told: Sequence[stored_pb2.Event]) -> None:
        """Store events as far as that can be had: nothing waits for them, and none is tried twice."""
        now = datetime.now(UTC)
        for event in told:
            event.at.FromDatetime(now)
        try:
            for batch in batches(await self._journal.puts(env, told, now, time.monotonic())):
                await self._etcd.txn([], batch)
        except StoreError as error:
            self._journal.forget_lease()
            _log.warning("events not stored", env=str(env), error=str(error))

    def _holds(self, env: EnvironmentRef, report: _Report, value: bytes) -> bool:
        """Etcd has this status, or was given it a moment ago. What the cache shows may be older than our last write, so
        it counts only when it is the same as that, or when there was none."""
        if report.value not in (b"", value):
            return False
        if report.value and asyncio.get_running_loop().time() < report.echo:
            return True
        return self._shows(env, report, value)

    def _shows(self, env: EnvironmentRef, report: _Report, value: bytes) -> bool:
        """The cache has this status."""
        stored = self._stored(env)
        # The cache takes over the message that it was told to expect.
        if report.made is not None and stored is report.made[0]:
            return value == report.made[1]
        return stored is not None and encode(stored) == value

    def _on_change(self, key: str) -> None:
        try:
            _, env = self._keys.parse_assignment(key)
        except ValueError:
            return
        report = self._reports.get(env)
        if report is None or not report.value:
            return
        if self._shows(env, report, report.value):
            report.echo = 0.0
            return
        loop = asyncio.get_running_loop()
        # An older write of ours coming by, or etcd has something else: look again when ours must have come by.
        loop.call_later(max(0.0, report.echo - loop.time()) + 0.01, self._soon, env, 0.0)
