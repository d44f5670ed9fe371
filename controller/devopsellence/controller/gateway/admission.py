"""Admission of calls: who calls, within which limits, the answer to a call that is refused or fails, the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog

from devopsellence.controller.gateway.caller import Caller
from devopsellence.controller.gateway.grants import KeyRange
from devopsellence.controller.gateway.identities import Identities
from devopsellence.controller.gateway.limits import CallerLimits, LimitTable, Rate, TokenBucket
from devopsellence.controller.gateway.refusal import RefusalKind, Refused
from devopsellence.controller.gateway.upstream import NOT_PROCESSED, UpstreamFailed

_COMMON_NAME: Final = "x509_common_name"
#: Longest time that a unary call may take, in seconds.
_LONGEST_CALL: Final = 10.0
# A status travels as metadata, which has a limit of 8 KiB, and each character may need nine bytes.
_LONGEST_REASON: Final = 500
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
#: Most keys in a line of the audit log, and the longest key or reason.
_SHOWN_KEYS: Final = 5
_LONGEST_TEXT: Final = 300
#: Refusals of one caller that are logged: a caller that is refused in a loop must not fill the log.
_REFUSALS: Final = Rate(50, 0.2)
_log = structlog.get_logger("gateway")


class AuditLog:
    """Audit log of one gateway: a line for each write, grant and refusal, with caller and keys, never a value."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._dropped: dict[str, int] = {}

    def written(self, identity: str, method: str, keys: Sequence[KeyRange], outcome: str) -> None:
        """Log a write that was passed on to etcd."""
        shown = [str(key)[:_LONGEST_TEXT] for key in keys[:_SHOWN_KEYS]]
        more = {"more_keys": len(keys) - _SHOWN_KEYS} if len(keys) > _SHOWN_KEYS else {}
        _log.info("written", caller=identity, method=method, keys=shown, outcome=outcome, **more)

    def failed(self, identity: str, method: str, code: str, reason: str) -> None:
        """Log a call that etcd refused or did not answer; an unanswered write may have happened."""
        _log.info("failed", caller=identity, method=method, code=code, reason=reason[:_LONGEST_TEXT])

    def read(self, identity: str, method: str) -> None:
        """Log a read or a watch, for debugging."""
        _log.debug("read", caller=identity, method=method)

    def refused(self, identity: str, method: str, refused: Refused, now: float) -> None:
        """Log a refusal, or count it if too many of this caller's were logged."""
        bucket = self._buckets.setdefault(identity, TokenBucket(_REFUSALS, now))
        if not bucket.has(1, now):
            self._dropped[identity] = self._dropped.get(identity, 0) + 1
            return
        bucket.take(1)
        dropped = self._dropped.pop(identity, 0)
        more = {"not_logged": dropped} if dropped else {}
        reason = refused.reason[:_LONGEST_TEXT]
        _log.warning("refused", caller=identity, method=method, kind=refused.kind.name.lower(), reason=reason, **more)


@dataclass(frozen=True, slots=True)
class AdmittedCall:
    """A call whose caller is known."""

    caller: Caller
    limits: CallerLimits
    method: str
    #: Seconds until the caller stops waiting.
    seconds: float


class Admission:
    """Admission of all calls of one gateway."""

    def __init__(self, identities: Identities, audit: AuditLog) -> None:
        self.identities = identities
        self.audit = audit
        self._table = LimitTable()

    @asynccontextmanager
    async def admitted(
        self, context: grpc.aio.ServicerContext[Any, Any], method: str, *, stream: bool = False
    ) -> AsyncIterator[AdmittedCall]:
        """Admit a call for the time of the block; the block's refusals and failures become the call's status."""
        names = common_names(context)
        shown = ",".join(names) or "nobody"
        try:
            caller = self.identities.caller(names)
            limits = self._table.of(caller.identity, caller.role, asyncio.get_running_loop().time())
            with limits.call(stream=stream):
                yield AdmittedCall(caller, limits, method, _seconds_left(context))
        except Refused as refused:
            self.audit.refused(shown, method, refused, asyncio.get_running_loop().time())
            await context.abort(_CODES[refused.kind], status_text(refused))
        except UpstreamFailed as failed:
            self.audit.failed(shown, method, failed.code.name, failed.details)
            await context.abort(failed.code, failed.details)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - logged with its traceback; the caller learns nothing of it
            _log.exception("call failed", caller=shown, method=method)
            await _abort_internal(context)


def _seconds_left(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Return the seconds until the caller stops waiting; 0 if it already has."""
    left = context.time_remaining()
    return _LONGEST_CALL if left is None else max(0.0, min(left, _LONGEST_CALL))


async def _abort_internal(context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(grpc.StatusCode.INTERNAL, "internal error of the gateway; see the controller's log")


def common_names(context: grpc.aio.ServicerContext[Any, Any]) -> list[str]:
    """Return the common names of the caller's certificate."""
    names = context.auth_context().get(_COMMON_NAME) or ()
    return [name.decode(errors="backslashreplace") for name in names]


def status_text(refused: Refused) -> str:
    """Return the details of the status for a refusal."""
    return f"{_TEXTS.get(refused.kind, 'gateway: ')}{refused.reason[:_LONGEST_REASON]}"
