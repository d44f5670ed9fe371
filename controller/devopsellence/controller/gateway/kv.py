"""The KV service: reads, writes, deletions and transactions, each decided before it is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio

from devopsellence.controller.gateway import filters, policy
from devopsellence.controller.gateway.admission import Admission, AdmittedCall
from devopsellence.controller.gateway.caller import Caller
from devopsellence.controller.gateway.grants import end_of
from devopsellence.controller.gateway.limits import WriteCost
from devopsellence.controller.gateway.policy import Facts, NeededFacts, ReadMode
from devopsellence.controller.gateway.refusal import invalid
from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import KVServicer
from devopsellence.store.keys import Keys
from devopsellence.store.types import MAX_OPERATIONS

_Context = grpc.aio.ServicerContext[Any, Any]


class KeyValueService(KVServicer):
    """The KV service of etcd's API."""

    def __init__(self, admission: Admission, upstream: Upstream, keys: Keys) -> None:
        self._admission = admission
        self._upstream = upstream
        self._keys = keys

    async def Range(self, request: rpc.RangeRequest, context: _Context) -> rpc.RangeResponse:  # noqa: N802
        async with self._admission.admitted(context, "Range") as call:
            policy.check_understood(request)
            mode = policy.check_range(call.caller, request)
            # Always linearizable: a member that lags must not show a caller an older state.
            request.serializable = False
            whole = mode is ReadMode.WHOLE
            answer = await (self._upstream.range(request, call.seconds) if whole else self._filtered(call, request))
            self._admission.audit.read(call.caller.identity, call.method)
        return answer

    async def _filtered(self, call: AdmittedCall, request: rpc.RangeRequest) -> rpc.RangeResponse:
        grants = call.caller.grants
        two_steps = filters.needs_keys_first(request)
        whole = filters.unfiltered_request(request, grants, keys_only=two_steps)
        page = filters.filtered_answer(request, await self._upstream.range(whole, call.seconds), grants)
        if not two_steps or not page.kvs:
            return page
        values = await self._upstream.range(filters.page_request(request, page), call.seconds)
        return filters.with_values(page, values)

    async def Put(self, request: rpc.PutRequest, context: _Context) -> rpc.PutResponse:  # noqa: N802
        async with self._admission.admitted(context, "Put") as call:
            policy.check_understood(request)
            facts = await self._facts(call, [request], policy.cost_of(self._keys, [request]))
            policy.check_put(call.caller, self._keys, request, facts, call.limits.environments)
            answer = await self._upstream.put(request, call.seconds)
            self._note(call, [request], [request.key], "done")
        return answer

    async def DeleteRange(  # noqa: N802
        self, request: rpc.DeleteRangeRequest, context: _Context
    ) -> rpc.DeleteRangeResponse:
        async with self._admission.admitted(context, "DeleteRange") as call:
            policy.check_understood(request)
            policy.check_delete(call.caller, request)
            call.limits.spend(policy.cost_of(self._keys, [], 1), asyncio.get_running_loop().time())
            answer = await self._upstream.delete(request, call.seconds)
            self._note(call, [], [request.key], f"{answer.deleted} deleted")
        return answer

    async def Txn(self, request: rpc.TxnRequest, context: _Context) -> rpc.TxnResponse:  # noqa: N802
        async with self._admission.admitted(context, "Txn") as call:
            policy.check_understood(request)
            puts, cost = policy.puts_of(request), policy.cost_of_txn(self._keys, request)
            facts = await self._facts(call, puts, cost)
            policy.check_txn(call.caller, self._keys, request, facts, call.limits.environments)
            answer = await self._upstream.txn(request, call.seconds, write=bool(cost.writes))
            if cost.writes:
                outcome = "succeeded" if answer.succeeded else "not succeeded"
                self._note(call, puts if answer.succeeded else [], _written_keys(request), outcome)
        return answer

    async def _facts(self, call: AdmittedCall, puts: Sequence[rpc.PutRequest], cost: WriteCost) -> Facts:
        """Take the cost of a request and look up what its decision needs."""
        call.limits.spend(cost, asyncio.get_running_loop().time())
        needed = policy.needed_facts(call.caller, self._keys, puts, call.limits.environments)
        return await look_up(self._upstream, self._keys, call.caller, needed)

    def _note(self, call: AdmittedCall, puts: Sequence[rpc.PutRequest], keys: Sequence[bytes], outcome: str) -> None:
        call.limits.environments |= policy.reported_environments(call.caller, self._keys, puts)
        self._admission.audit.written(call.caller.identity, call.method, keys, outcome)


def _written_keys(request: rpc.TxnRequest) -> list[bytes]:
    keys = []
    for operation in (*request.success, *request.failure):
        if operation.HasField("request_put"):
            keys.append(operation.request_put.key)
        elif operation.HasField("request_delete_range"):
            keys.append(operation.request_delete_range.key)
    return keys


async def look_up(upstream: Upstream, keys: Keys, caller: Caller, needed: NeededFacts) -> Facts:
    """Read the needed facts in one linearizable read.

    Raises:
        Refused: the decision needs too many records.
        UpstreamFailed: etcd could not be read.
    """
    if not needed:
        return Facts()
    wanted = sorted(needed.stored)
    if len(wanted) > MAX_OPERATIONS:
        raise invalid(f"a request whose decision needs more than {MAX_OPERATIONS} records")
    ranges = [rpc.RangeRequest(key=key.encode()) for key in wanted]
    if needed.count_statuses:
        prefix = keys.statuses_prefix(caller.name).encode()
        ranges.append(rpc.RangeRequest(key=prefix, range_end=end_of(prefix), count_only=True))
    request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=asked) for asked in ranges])
    answer = await upstream.txn(request, write=False)
    found = [response.response_range for response in answer.responses]
    stored = {
        key: bytes(read.kvs[0].value) if read.kvs else None
        for key, read in zip(wanted, found[: len(wanted)], strict=True)
    }
    return Facts(stored, found[-1].count if needed.count_statuses else 0)
