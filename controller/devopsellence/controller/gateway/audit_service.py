"""The Audit service: entries that nodes report are stored, and operators read those that they may."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import grpc
import grpc.aio

from devopsellence.api.v1.audit_pb2 import AuditAnswer, AuditEntry, AuditReport, AuditReportAnswer, AuditRequest
from devopsellence.controller.gateway.admission import Admission, AdmittedCall
from devopsellence.controller.gateway.audit import reports
from devopsellence.controller.gateway.audit.selection import Selection, check_request
from devopsellence.controller.gateway.audit.trail import AuditTrail, Follower, TrailUnavailable
from devopsellence.controller.gateway.rules.policy import check_understood
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.controller.gateway.upstream import UpstreamFailed

_NO_TRAIL: Final = "this gateway keeps no audit trail: start its controller with --audit-dir"
#: Readers of one caller at the same time; each may hold some MiB.
_MOST_READERS: Final = 4
#: Seconds that a reader may take for one answer.
_SLOW_SECONDS: Final = 30.0
_Context = grpc.aio.ServicerContext[Any, Any]


class AuditService:
    """The service ``Audit`` of ``audit.proto``, with its method names. ``trail``: None if the gateway keeps none.

    Not derived from the generated class, which expects a generator: writing waits for the caller to read.
    """

    def __init__(self, admission: Admission, trail: AuditTrail | None) -> None:
        self._admission = admission
        self._trail = trail
        self._limits = reports.ReportLimits()
        self._readers: Counter[str] = Counter()

    async def Report(self, request: AuditReport, context: _Context) -> AuditReportAnswer:  # noqa: N802
        async with self._admission.admitted(context, "Report") as call:
            entries = reports.accepted(call.caller, request.entries)
            if self._trail is None:
                raise Refused(RefusalKind.NOT_NOW, _NO_TRAIL)
            now = asyncio.get_running_loop().time()
            self._limits.take(call.caller, len(entries), request.ByteSize(), now)
            try:
                async with asyncio.timeout(call.seconds):
                    await self._trail.store(entries)
            except (TrailUnavailable, TimeoutError) as error:
                raise Refused(RefusalKind.NOT_NOW, str(error) or "the audit trail was not written in time") from error
        return AuditReportAnswer()

    async def Read(self, request: AuditRequest, context: _Context) -> None:  # noqa: N802
        async with self._admission.admitted(context, "Read", stream=True) as call:
            check_understood(request)
            check_request(call.caller, request)
            if self._trail is None:
                raise UpstreamFailed(grpc.StatusCode.FAILED_PRECONDITION, _NO_TRAIL)
            trail = self._trail

            async def send(answer: AuditAnswer) -> None:
                try:
                    async with asyncio.timeout(_SLOW_SECONDS):
                        await context.write(answer)
                except TimeoutError as error:
                    raise _too_slow() from error

            with self._counted(call.caller.identity):
                await send(AuditAnswer(problem=trail.problem))
                # Before the files are read: an entry in between is sent twice, and its id tells.
                with trail.follower() if request.follow else nullcontext() as follower:
                    async for entries in trail.read(Selection(call.caller, request)):
                        await send(AuditAnswer(entries=entries))
                    if follower is not None:
                        await self._follow(call, request, follower, send)

    @contextmanager
    def _counted(self, caller: str) -> Iterator[None]:
        """Count a reader within the block.

        Raises:
            Refused: the caller has too many already.
        """
        if self._readers[caller] >= _MOST_READERS:
            raise Refused(RefusalKind.EXHAUSTED, f"{_MOST_READERS} readers of the audit trail are the most")
        self._readers[caller] += 1
        try:
            yield
        finally:
            self._readers[caller] -= 1

    async def _follow(
        self,
        call: AdmittedCall,
        request: AuditRequest,
        follower: Follower,
        send: Callable[[AuditAnswer], Awaitable[None]],
    ) -> None:
        """Send new entries until the caller ends the stream, or may not read any more."""
        while True:
            entries: list[AuditEntry] = await follower.next()
            if follower.missed:
                raise _too_slow()
            caller = self._admission.identities.caller([call.caller.identity], call.serial)
            selection = Selection(caller, request)
            if chosen := [entry for entry in entries if selection.has(entry)]:
                await send(AuditAnswer(entries=chosen))


def _too_slow() -> Refused:
    return Refused(RefusalKind.EXHAUSTED, "the entries were read too slowly; begin again")
