"""The Lease service: each lease belongs to the caller that it was granted to, through whichever gateway."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from devopsellence.controller.gateway.admission import Admission, AdmittedCall
from devopsellence.controller.gateway.keepalives import Keepalives
from devopsellence.controller.gateway.rules import policy
from devopsellence.controller.gateway.rules.grants import Right
from devopsellence.controller.gateway.rules.leases import RANDOM_BITS, lease_id, owns
from devopsellence.controller.gateway.rules.refusal import denied, unsupported
from devopsellence.controller.gateway.upstream import Upstream, UpstreamFailed, failure_of
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.errors import StoreError

_Context = grpc.aio.ServicerContext[Any, Any]
_ATTEMPTS: Final = 5
#: Seconds between two keepalives of a stream after which the second does not hurry, as that of an agent's one lease.
_UNHURRIED_SECONDS: Final = 1.0


class LeaseService:
    """The Lease service of etcd's API, without a listing of leases.

    Not derived from the generated class, which expects a generator, one more layer for each keepalive.
    """

    def __init__(self, admission: Admission, upstream: Upstream, keepalives: Keepalives) -> None:
        self._admission = admission
        self._upstream = upstream
        self._keepalives = keepalives

    async def LeaseGrant(  # noqa: N802
        self, request: rpc.LeaseGrantRequest, context: _Context
    ) -> rpc.LeaseGrantResponse:
        async with self._admission.admitted(context, "LeaseGrant") as call:
            policy.check_understood(request)
            if request.ID:
                raise unsupported("a lease with an id of the caller's choice")
            call.limits.check_grant(request.TTL, asyncio.get_running_loop().time())
            answer = await self._granted(call, request)
            call.limits.lease_held(answer.ID, answer.TTL, asyncio.get_running_loop().time())
            self._admission.audit.written(call.source, call.method, [], f"lease {answer.ID:x}")
        return answer

    async def _granted(self, call: AdmittedCall, request: rpc.LeaseGrantRequest) -> rpc.LeaseGrantResponse:
        """Grant a lease under a free id of the caller."""
        if call.caller.is_trusted:
            return await self._upstream.lease_grant(request, call.seconds)
        for attempt in range(_ATTEMPTS):
            request.ID = lease_id(call.caller.identity, secrets.randbits(RANDOM_BITS))
            try:
                return await self._upstream.lease_grant(request, call.seconds)
            except UpstreamFailed as failed:
                if "lease already exists" not in failed.details or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def LeaseRevoke(  # noqa: N802
        self, request: rpc.LeaseRevokeRequest, context: _Context
    ) -> rpc.LeaseRevokeResponse:
        async with self._admission.admitted(context, "LeaseRevoke") as call:
            policy.check_understood(request)
            _check_owner(call, request.ID)
            answer = await self._upstream.lease_revoke(request, call.seconds)
            call.limits.lease_ended(request.ID)
            self._admission.audit.written(call.source, call.method, [], f"lease {request.ID:x} revoked")
        return answer

    async def LeaseTimeToLive(  # noqa: N802
        self, request: rpc.LeaseTimeToLiveRequest, context: _Context
    ) -> rpc.LeaseTimeToLiveResponse:
        async with self._admission.admitted(context, "LeaseTimeToLive") as call:
            policy.check_understood(request)
            _check_owner(call, request.ID)
            answer = await self._upstream.lease_ttl(request, call.seconds)
            readable = [key for key in answer.keys if call.caller.grants.allow_key(Right.READ, key)]
            del answer.keys[:]
            answer.keys.extend(readable)
        return answer

    async def LeaseKeepAlive(  # noqa: N802
        self, request_iterator: AsyncIterator[rpc.LeaseKeepAliveRequest], context: _Context
    ) -> None:
        async with self._admission.admitted(context, "LeaseKeepAlive", stream=True) as call:
            last = -_UNHURRIED_SECONDS
            try:
                async for request in request_iterator:
                    now = asyncio.get_running_loop().time()
                    # A stream of many leases waits for each answer, and may not wait for other callers as well.
                    answer = await self._renew(call, request, now, hurry=now - last < _UNHURRIED_SECONDS)
                    last = now
                    if answer.TTL > 0:
                        # Counted from the moment of sending, as its owner does.
                        call.limits.lease_held(answer.ID, answer.TTL, now)
                    await context.write(answer)
            except StoreError as error:
                raise failure_of(error) from error

    def _renew(
        self, call: AdmittedCall, request: rpc.LeaseKeepAliveRequest, now: float, *, hurry: bool
    ) -> asyncio.Future[rpc.LeaseKeepAliveResponse]:
        policy.check_understood(request)
        # The caller may have lost its access since the stream was opened.
        self._admission.identities.caller([call.caller.identity], call.serial)
        _check_owner(call, request.ID)
        call.limits.check_renewal(now)
        return self._keepalives.renew(request, hurry=hurry)


def _check_owner(call: AdmittedCall, lease: int) -> None:
    """Refuse a lease of somebody else, whether it exists or not."""
    if not (call.caller.is_trusted or owns(call.caller.identity, lease)):
        raise denied(f"lease {lease:x} was not granted to {call.caller.identity}")
