"""Admission of calls: who calls, within which limits, and the answer to a call that is refused or fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from devopsellence.access.certificate import Certificate, certificate_of, common_names
from devopsellence.access.roles import Action
from devopsellence.audit import CallSource
from devopsellence.controller.gateway.audit.log import AuditLog
from devopsellence.controller.gateway.identities import Identities
from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.grants import KeyRange
from devopsellence.controller.gateway.rules.limits import CallerLimits, LimitTable
from devopsellence.controller.gateway.rules.policy import check_method
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.controller.gateway.upstream import NOT_PROCESSED, UpstreamFailed

#: Longest time that a unary call may take, in seconds.
_LONGEST_CALL: Final = 10.0
#: Calls that are worked on at a time; further ones wait in the order of their arrival. With all of a thousand nodes'
#: writes begun at once, each turn of the event loop takes so long that keepalives are late and leases end.
WORKED_ON: Final = 64
# A status travels as metadata, which has a limit of 8 KiB, and each character may need nine bytes.
_LONGEST_REASON: Final = 500
#: Methods that change something in etcd.
_WRITING: Final = frozenset({"Put", "DeleteRange", "Txn", "Renew", "RenewRouter", "Sign", "Join"})
_CODES: Final[Mapping[RefusalKind, grpc.StatusCode]] = {
    RefusalKind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    RefusalKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalKind.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    RefusalKind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalKind.NOT_NOW: grpc.StatusCode.UNAVAILABLE,
}
#: Texts of etcd before the reason, by which clients tell refusals apart.
_TEXTS: Final[Mapping[RefusalKind, str]] = {
    RefusalKind.DENIED: "etcdserver: permission denied: ",
    RefusalKind.NOT_NOW: f"{NOT_PROCESSED}: ",
}
_log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class AdmittedCall:
    """A call whose caller is known."""

    caller: Caller
    #: Serial number of the caller's certificate.
    serial: str
    limits: CallerLimits
    method: str
    #: Seconds until the caller stops waiting.
    seconds: float
    source: CallSource


class Admission:
    """Admission of all calls of one gateway."""

    def __init__(self, identities: Identities, audit: AuditLog) -> None:
        self.identities = identities
        self.audit = audit
        self._table = LimitTable()
        self._room = asyncio.Semaphore(WORKED_ON)

    @asynccontextmanager
    async def admitted(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        method: str,
        request: Message | None = None,
        *,
        stream: bool = False,
    ) -> AsyncIterator[AdmittedCall]:
        """Admit a call for the time of the block; the block's refusals and failures become the call's status.

        ``request`` is what the audit says the call was about.
        """
        identities = context.auth_context()
        names, serial = common_names(identities), certificate_of(identities).serial
        shown = ",".join(names) or "nobody"
        source = CallSource.of(Certificate(shown, serial), context.peer())
        begun = False
        try:
            caller = self.identities.caller(names, serial)
            if caller.role is Role.NODE:
                source = replace(source, node=caller.name)
            check_method(caller, method)
            limits = self._table.of(caller.identity, caller.role, asyncio.get_running_loop().time())
            with limits.call(stream=stream):
                async with nullcontext() if stream else self._room:
                    begun = True
                    yield AdmittedCall(caller, serial, limits, method, _seconds_left(context), source)
        except Refused as refused:
            self.audit.refused(source, method, refused, asyncio.get_running_loop().time(), request)
            await context.abort(_CODES[refused.kind], status_text(refused))
        except UpstreamFailed as failed:
            write = method in _WRITING
            self.audit.failed(source, method, failed.code.name, failed.details, request, write=write)
            await context.abort(failed.code, failed.details)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            if begun and method in _WRITING:
                # Else whoever leaves at the right moment would write without an entry.
                reason = "the caller has left; it may have happened"
                self.audit.failed(source, method, "CANCELLED", reason, request, write=True)
            raise
        except Exception:  # noqa: BLE001 - logged with its traceback; the caller learns nothing of it
            _log.exception("call failed", caller=shown, method=method)
            await _abort_internal(context)

    def note_read(self, call: AdmittedCall, keys: Sequence[KeyRange] = ()) -> None:
        """Let the audit know of a read or a watch, whose answer leaves out what the caller may not read."""
        caller = call.caller
        reads_secrets = caller.role is not Role.OPERATOR or caller.rights.permit_somewhere(Action.LIST_SECRETS)
        now = asyncio.get_running_loop().time()
        self.audit.read(call.source, call.method, keys if reads_secrets else (), now)


def _seconds_left(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Return the seconds until the caller stops waiting; 0 if it already has."""
    left = context.time_remaining()
    return _LONGEST_CALL if left is None else max(0.0, min(left, _LONGEST_CALL))


async def _abort_internal(context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(grpc.StatusCode.INTERNAL, "internal error of the gateway; see the controller's log")


def status_text(refused: Refused) -> str:
    """Return the details of the status for a refusal."""
    return f"{_TEXTS.get(refused.kind, 'gateway: ')}{refused.reason[:_LONGEST_REASON]}"
