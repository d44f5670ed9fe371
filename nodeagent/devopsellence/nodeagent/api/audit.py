"""Audit of API calls: who called, from where, and what the call was about, with an end for commands.

Recorded are Exec and RunTask with their arguments, begin and end, Logs, LoadImage and Diagnose, and every refusal, of
which a caller has a limited number. FindImages and SendLayer come with LoadImage, which says the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from devopsellence.access.certificate import Certificate, certificate_of, common_names
from devopsellence.api.v1.agent_pb2 import RunAnswer
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import CallSource, RefusalBudget
from devopsellence.nodeagent.api.auth import CallRefused, refusal_of
from devopsellence.nodeagent.api.session import Answer
from devopsellence.nodeagent.docker.output import redacted

_REFUSALS: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED)
#: In place of each argument of a command that was refused.
_NOT_SHOWN: Final = "[not shown]"
#: Returns the values of the secrets of a service in an environment, as far as this node knows them.
KnownValues = Callable[[str, str], Awaitable[Sequence[str]]]


class AuditSink(Protocol):
    """Receiver of entries."""

    def add(self, entry: AuditEntry) -> None: ...


@dataclass
class AuditedCall:
    """A call, and what is known of it so far."""

    source: CallSource
    method: str
    summary: str = ""
    environment: str = ""
    services: tuple[str, ...] = ()
    #: Arguments of a command, with secrets: for :meth:`CallAudit.began`, which leaves those out.
    command: tuple[str, ...] = ()
    #: Id of the entry about the begin; "" before it.
    begin: str = ""
    exit_code: int | None = None

    @property
    def certificate(self) -> Certificate:
        return self.source.certificate

    def about(
        self, summary: str, environment: str = "", services: Iterable[str] = (), command: Iterable[str] = ()
    ) -> None:
        """Say what the call is about, as soon as its request is known."""
        self.summary, self.environment = summary, environment
        self.services, self.command = tuple(services), tuple(command)

    def noting_exit(self, answer: Answer) -> Answer:
        """Return ``answer``, which also notes the exit code of the command."""

        async def send(message: RunAnswer) -> None:
            if message.WhichOneof("kind") == "exit_code":
                self.exit_code = message.exit_code
            await answer(message)

        return send


class CallAudit:
    """Audit of one node's API. Lives on the event loop."""

    def __init__(self, sink: AuditSink, known_values: KnownValues) -> None:
        self._sink = sink
        self._known_values = known_values
        self._budget = RefusalBudget()

    async def began(self, call: AuditedCall) -> None:
        """Record a call that is permitted, before it does anything."""
        await self._mask(call)
        call.begin = self._add(call, AuditEntry.ALLOWED)

    @asynccontextmanager
    async def during(self, call: AuditedCall) -> AsyncIterator[None]:
        """Record the begin and the end of a command, which is the block."""
        await self.began(call)
        reason = "the call was cut off"
        try:
            yield
            reason = ""
        except Exception as error:
            reason = refusal_of(error).message
            raise
        finally:
            self._add(call, AuditEntry.ENDED, reason)

    async def refused(self, call: AuditedCall, refused: CallRefused) -> None:
        """Record a call that ends with a refusal: for lack of rights, or because it cannot be done."""
        is_refusal = refused.code in _REFUSALS
        if call.begin and not is_refusal:
            # Said by the end of the call.
            return
        left_out = self._budget.take(call.certificate.common_name, asyncio.get_running_loop().time())
        if left_out is None:
            return
        if not call.begin and is_refusal:
            # Masked, they would tell a caller without rights which of its guesses are secrets.
            call.command = (*call.command[:1], *(_NOT_SHOWN for _ in call.command[1:]))
        elif not call.begin:
            await self._mask(call)
        outcome = AuditEntry.REFUSED if is_refusal else AuditEntry.FAILED
        self._add(call, outcome, refused.message, left_out)

    async def _mask(self, call: AuditedCall) -> None:
        if call.command:
            values = await self._known_values(call.environment, call.services[0])
            call.command = masked(call.command, values)

    def _add(
        self, call: AuditedCall, outcome: AuditEntry.Outcome.ValueType, reason: str = "", left_out: int = 0
    ) -> str:
        entry = call.source.entry(call.method, outcome, reason)
        entry.summary, entry.begin, entry.left_out = call.summary, call.begin, left_out
        entry.environments.extend([call.environment] if call.environment else [])
        entry.services.extend(call.services)
        entry.command.extend(call.command)
        if outcome == AuditEntry.ENDED and call.exit_code is not None:
            entry.exit_code = call.exit_code
        self._sink.add(entry)
        return entry.id


def audited_call(identities: Mapping[str, Iterable[bytes]], peer: str, path: str) -> AuditedCall:
    """Return a call from gRPC's auth context, the caller's address as gRPC names it, and the path of the method."""
    shown = ",".join(common_names(identities)) or "nobody"
    certificate = Certificate(shown, certificate_of(identities).serial)
    return AuditedCall(CallSource.of(certificate, peer), path.rpartition("/")[2])


def masked(arguments: Iterable[str], secrets: Iterable[str]) -> tuple[str, ...]:
    """Return arguments without the values of secrets, as output of containers is shown without them."""
    values = tuple(secrets)
    return tuple(redacted(argument.encode(), values).decode(errors="replace") for argument in arguments)
