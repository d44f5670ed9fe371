"""Reporter: keeps the spool on disk, and sends it to a gateway, whichever answers.

No call waits for the disk or for a gateway. An entry may be sent twice, after an answer that was lost; its id tells.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from devopsellence import clock
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import bound
from devopsellence.nodeagent.audit.spool import Spool
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.store.errors import Rejected
from devopsellence.store.retry import repeat

#: Longest pause between two attempts to send.
_LONGEST_BACKOFF: Final = 60.0
_log = structlog.get_logger()


class AuditReporter:
    """Entries of one node; call :meth:`load`, then :meth:`run`."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._spool = Spool()
        self._changed = asyncio.Event()
        self._pending = asyncio.Event()
        self._problem = ""

    def add(self, entry: AuditEntry) -> None:
        """Keep an entry, and send it."""
        entry.node_time.FromNanoseconds(int(clock.now().wall * 1e9))
        self._spool.add(bound(entry))
        self._changed.set()
        self._pending.set()

    async def load(self) -> None:
        """Load what an earlier agent has not sent."""
        damaged = self._spool.load(await self._context.disk.run(self._context.folder.audit))
        if damaged:
            _log.warning("lines of the audit file are unreadable and left out", lines=damaged)
        if len(self._spool):
            self._pending.set()

    async def run(self) -> None:
        """Keep and send entries until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep())
            group.create_task(repeat(self._send, self._failed, longest=_LONGEST_BACKOFF))

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write the file, if there is news for it."""
        if not self._changed.is_set():
            return
        self._changed.clear()
        try:
            await self._context.disk.run(partial(self._context.folder.save_audit, self._spool.content()))
        except OSError as error:
            # ``state_keeper`` repeats the write.
            _log.error("calls of the API could not be kept on disk", error=str(error))

    async def _send(self) -> None:
        await self._pending.wait()
        batch = self._spool.batch()
        try:
            await self._context.etcd.report_audit(batch)
        except Rejected as error:
            _log.error("a gateway takes no such entries; they are left out", entries=len(batch), reason=str(error))
        if self._problem:
            _log.info("calls of the API are reported again")
            self._problem = ""
        self._spool.remove(batch)
        self._changed.set()
        if not len(self._spool):
            self._pending.clear()

    def _failed(self, error: Exception) -> None:
        if not self._problem:
            _log.warning("calls of the API wait on disk to be reported", waiting=len(self._spool), reason=str(error))
        self._problem = str(error)
