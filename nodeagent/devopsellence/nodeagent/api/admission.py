"""Admission of calls: the caller's certificate, the deny-list, the number of calls per caller, a first message soon.

gRPC limits calls over all callers together, and hands a call with a single request to its handler only once the request
is there. So calls that say nothing would take the API from everybody. Here every call is looked at when it begins, as a
stream of requests, whatever its kind: on the wire these are the same.

Bytes in flight are bounded with the calls, because a call has one message of at most ``MAX_MESSAGE_BYTES`` at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
import structlog

from devopsellence.access.certificate import certificate_of
from devopsellence.agent_identity import ACCEPTED_BY
from devopsellence.nodeagent.api import auth
from devopsellence.nodeagent.api.audit import CallAudit, audited_call
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.rights import CallRights

#: Calls of one operator at the same time; a call may use some hundred KiB.
OPERATOR_CALLS: Final = 64
#: Calls of one node at the same time: more than the images that an agent pulls at once.
NODE_CALLS: Final = 8
#: Longest wait for the first message of a call.
FIRST_MESSAGE_SECONDS: Final = 5.0
_Code = grpc.StatusCode
_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Rule:
    """Rule for a service. ``caller`` returns the name of a caller, or refuses. ``accepts``: the call is acknowledged to
    the caller before the first message, because the caller may wait for that."""

    caller: Callable[[Mapping[str, Any]], str]
    calls: int
    accepts: bool


_RULES: Final = {
    "devopsellence.api.v1.Agent": _Rule(auth.operator_name, OPERATOR_CALLS, accepts=True),
    "devopsellence.api.v1.Peers": _Rule(auth.node_name, NODE_CALLS, accepts=False),
}


class CallAdmission(grpc.aio.ServerInterceptor):
    """Interceptor before every handler. Lives on the event loop."""

    def __init__(self, node: str, rights: CallRights, audit: CallAudit) -> None:
        self._node = node
        self._rights = rights
        self._audit = audit
        self._calls: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, behind the admission."""
        handler: Any = await continuation(handler_call_details)
        rule = _RULES.get(str(handler_call_details.method).strip("/").partition("/")[0])
        if handler is None or rule is None:
            # Not a call of this API: gRPC says so.
            return None

        async def admitted(requests: AsyncIterator[Any], context: _Context) -> None:
            identities = context.auth_context()
            try:
                caller = rule.caller(identities)
                self._rights.check_denied(certificate_of(identities))
                with self._counted(caller, rule.calls):
                    if rule.accepts:
                        await context.send_initial_metadata(((ACCEPTED_BY, self._node),))
                    first = await _first_message(requests)
                    await _call(handler, first, requests, context)
            except CallRefused as refused:
                method = str(handler_call_details.method)
                _log.info("API call refused", call=method, peer=context.peer(), reason=refused.message)
                await self._audit.refused(audited_call(identities, context.peer(), method), refused)
                await auth.abort(context, self._node, refused)

        return grpc.stream_stream_rpc_method_handler(
            cast("Any", admitted), handler.request_deserializer, handler.response_serializer
        )

    @contextmanager
    def _counted(self, caller: str, limit: int) -> Iterator[None]:
        """Count a call of ``caller`` within the block. CallRefused if there are too many."""
        if self._calls[caller] >= limit:
            message = f"{caller} has {limit} calls to node {self._node} already, and no more are served at once"
            raise CallRefused(_Code.RESOURCE_EXHAUSTED, message)
        self._calls[caller] += 1
        try:
            yield
        finally:
            self._calls[caller] -= 1
            if not self._calls[caller]:
                del self._calls[caller]


async def _first_message(requests: AsyncIterator[Any]) -> Any:
    """Return the first message of a call; None if the caller sends none. CallRefused if none comes soon."""
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            return await anext(aiter(requests), None)
    except TimeoutError as error:
        message = f"the call has sent no request within {FIRST_MESSAGE_SECONDS:.0f} s"
        raise CallRefused(_Code.DEADLINE_EXCEEDED, message) from error


async def _call(handler: Any, first: Any, rest: AsyncIterator[Any], context: _Context) -> None:
    """Call the handler as its kind demands, and send what it returns."""
    if handler.request_streaming:
        method = handler.stream_stream if handler.response_streaming else handler.stream_unary
        answer = await method(_joined(first, rest), context)
    elif first is None:
        raise CallRefused(_Code.INVALID_ARGUMENT, "the call has no request")
    else:
        method = handler.unary_stream if handler.response_streaming else handler.unary_unary
        answer = await method(first, context)
    if not handler.response_streaming:
        await context.write(answer)


async def _joined(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    if first is None:
        return
    yield first
    async for message in rest:
        yield message
