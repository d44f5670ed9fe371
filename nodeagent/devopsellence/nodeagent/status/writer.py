"""Writer of assignment statuses: only changes, at a limited rate, and again after a loss in etcd.

The statuses in etcd are watched, so a status lost with a restored or emptied etcd is written again; without changes
nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.status.event_store import EventStore
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.codec import encode
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.events import EventWriter
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.record import message_of
from devopsellence.store.retry import REFUSED_SECONDS, is_refused
from devopsellence.store.size import bounded

#: Interval of writes during convergence. Writing thirty services takes about the CPU time left idle by starting one.
COALESCE_SECONDS: Final = 0.1
#: Longest interval, for a control plane that is slow to answer.
LONGEST_COALESCE_SECONDS: Final = 1.0
#: Longest wait for the agent's own write to come back through the watch.
ECHO_SECONDS: Final = 5.0
_USUAL: Final = wait_exponential(multiplier=0.2, max=2.0) + wait_random(0, 0.5)
_REFUSED: Final = wait_exponential(multiplier=0.5, max=REFUSED_SECONDS) + wait_random(0, 0.5)
_log = structlog.get_logger()

BuildStatus: TypeAlias = Callable[[], stored_pb2.AssignmentStatus]


@dataclass(slots=True)
class _Report:
    """Report of an environment. ``build`` builds the newest status; ``built`` is the last built status with its
    encoding. ``written``: the last write. ``echo_deadline``: loop time until which etcd may take to show the write.
    ``saved``: the content on disk."""

    build: BuildStatus
    events: EventStore
    built: tuple[stored_pb2.AssignmentStatus, bytes] | None = None
    #: Serializes writes, because concurrent writes may arrive in any order.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    written: bytes = b""
    saved: bytes = b""
    echo_deadline: float = 0.0

    def rebuild(self) -> tuple[stored_pb2.AssignmentStatus, bytes]:
        status = bounded(self.build())
        value = encode(status)
        if self.built is None or self.built[1] != value:
            self.built = (status, value)
        return self.built


def pause_after(seconds: float) -> float:
    """Return the pause before the next write during convergence, after one that took ``seconds``.

    When a thousand agents roll out at once, each leaves out statuses that would soon be replaced.
    """
    return min(max(seconds, COALESCE_SECONDS), LONGEST_COALESCE_SECONDS)


class StatusWriter:
    """Writes the statuses of a node; ``run`` until cancelled."""

    def __init__(self, etcd: Etcd, keys: Keys, node: str, folder: StateFolder, disk: ThreadPool) -> None:
        self._etcd = etcd
        self._keys = keys
        self._node = node
        self._folder = folder
        self._disk = disk
        self._event_writer = EventWriter(etcd)
        self._reports: dict[EnvironmentRef, _Report] = {}
        self._dirty: set[EnvironmentRef] = set()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._pause = COALESCE_SECONDS
        self._reporting = True
        self._informer = Informer(etcd, keys.statuses_prefix(node), stored_pb2.AssignmentStatus, self._on_change)

    def report(self, ref: EnvironmentRef, build: BuildStatus, *, now: bool) -> None:
        """Set the function that builds the status; called and written soon, or at once with ``now``."""
        known = self._reports.get(ref)
        if known is None:
            self._reports[ref] = _Report(build, EventStore(self._etcd, ref, self._event_writer))
        else:
            known.build = build
        self._schedule(ref, 0.0 if now else self._pause)

    def set_reporting(self, reporting: bool) -> None:
        """Begin or stop writing to etcd: of two agents with the same uid only one reports, or they would write over
        each other for ever. The statuses are built and kept on disk all the same."""
        resumed = reporting and not self._reporting
        self._reporting = reporting
        for ref in self._reports if resumed else ():
            self._schedule(ref, 0.0)

    def forget(self, ref: EnvironmentRef) -> None:
        """Stop reporting an environment; the key in etcd is left to the controller."""
        self._reports.pop(ref, None)
        self._dirty.discard(ref)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            # Read etcd first, so that a restarted agent does not repeat its last write.
            await self._informer.synced()
            while True:
                await self._wake.wait()
                await self.flush()

    async def flush(self) -> None:
        """Write all pending statuses, and return afterwards."""
        self._wake.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dirty, self._dirty = self._dirty, set()
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as group:
                for ref in sorted(dirty):
                    group.create_task(self._write(ref))
        except asyncio.CancelledError:
            self._dirty |= dirty
            raise
        self._pause = pause_after(asyncio.get_running_loop().time() - started)

    def _schedule(self, ref: EnvironmentRef, delay: float) -> None:
        self._dirty.add(ref)
        if delay == 0:
            self._wake.set()
        elif self._timer is None and not self._wake.is_set():
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)

    async def _write(self, ref: EnvironmentRef) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreError),
            wait=lambda state: (_REFUSED if is_refused(state) else _USUAL)(state),
            before_sleep=lambda state: _log.warning(
                "cannot write a status", env=str(ref), error=str(state.outcome and state.outcome.exception())
            ),
        )
        # Every attempt writes the newest status, not the status of the first attempt.
        try:
            await retrying(self.write, ref)
        except Exception:  # noqa: BLE001 - logged with its traceback; other environments continue
            _log.exception("cannot build a status", env=str(ref))

    async def write(self, ref: EnvironmentRef) -> None:
        """Write an environment's newest status, unless already in etcd. StoreError on failure."""
        report = self._reports.get(ref)
        if report is None:
            return
        await self._save(ref, report)
        if not self._reporting:
            return
        async with report.lock:
            await self._write_report(ref, report)

    async def _save(self, ref: EnvironmentRef, report: _Report) -> None:
        """Save the newest status to disk before any access to etcd, so that readers of the disk see the current status
        during an outage of etcd."""
        _, value = report.rebuild()
        if value == report.saved:
            return
        report.saved = value
        try:
            await self._disk.run(lambda: self._folder.save_status(ref, value))
        except OSError as error:
            _log.warning("cannot save a status to disk", env=str(ref), error=str(error))

    async def _write_report(self, ref: EnvironmentRef, report: _Report) -> None:
        # Rebuild only after news during the write to disk or during the wait for another write.
        status, value = report.rebuild() if report.built is None or ref in self._dirty else report.built
        if self._holds(ref, report, value):
            report.written = value
            return
        # Before the write, because the echo may arrive before the response.
        shown = self._stored(ref)
        key = self._keys.status(self._node, ref)
        self._informer.expect(key, value, status)
        if status.phase == stored_pb2.AssignmentStatus.REMOVED:
            # After reading this status the controller deletes both keys: do not recreate the key after that.
            assignment = self._keys.assignment(self._node, ref)
            await self._etcd.txn([Compare.exists(assignment)], [Put(key, value)])
        else:
            await report.events.write_with(Put(key, value), status, shown)
        report.written = value
        # The echo may have arrived before the response: then a deletion is noticed from now on.
        is_shown = self._shows(ref, report, value)
        report.echo_deadline = 0.0 if is_shown else asyncio.get_running_loop().time() + ECHO_SECONDS
        await report.events.store(status, shown)

    def _stored(self, ref: EnvironmentRef) -> stored_pb2.AssignmentStatus | None:
        """Return the last status of an environment received from etcd."""
        record = self._informer.records.get(self._keys.status(self._node, ref))
        return message_of(record)

    def _holds(self, ref: EnvironmentRef, report: _Report, value: bytes) -> bool:
        """Return True if etcd has this status or received it a moment ago. The cache may be older than the last write,
        so it counts only if equal to the last write, or without any write."""
        if report.written not in (b"", value):
            return False
        if report.written and asyncio.get_running_loop().time() < report.echo_deadline:
            return True
        return self._shows(ref, report, value)

    def _shows(self, ref: EnvironmentRef, report: _Report, value: bytes) -> bool:
        """Return True if the cache has this status."""
        stored = self._stored(ref)
        # The informer stores the very message passed to expect().
        if report.built is not None and stored is report.built[0]:
            return value == report.built[1]
        return stored is not None and encode(stored) == value

    def _on_change(self, key: str) -> None:
        try:
            _, ref = self._keys.parse_assignment(key)
        except ValueError:
            return
        report = self._reports.get(ref)
        if report is None or not report.written or not self._reporting:
            return
        if self._shows(ref, report, report.written):
            report.echo_deadline = 0.0
            return
        if key not in self._informer.records:
            # Deleted, maybe in one batch with the echo. Another write of the same status does no harm.
            report.echo_deadline = 0.0
        loop = asyncio.get_running_loop()
        # Either an older write of the agent, or a foreign value: check again after the echo deadline.
        loop.call_later(max(0.0, report.echo_deadline - loop.time()) + 0.01, self._schedule, ref, 0.0)
