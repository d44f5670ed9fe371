"""The KV service: reads, writes, deletions and transactions, each decided before it is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio

from devopsellence.controller.gateway.admission import Admission, AdmittedCall
from devopsellence.controller.gateway.rules import filters, policy
from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.grants import KeyRange, end_of
from devopsellence.controller.gateway.rules.guards import guards_of
from devopsellence.controller.gateway.rules.limits import WriteCost
from devopsellence.controller.gateway.rules.policy import ReadMode
from devopsellence.controller.gateway.rules.reports import Facts, NeededFacts, needed_facts, statuses_in
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
        async with self._admission.admitted(context, "Range", request) as call:
            policy.check_understood(request)
            mode = policy.check_range(call.caller, request)
            _make_linearizable(request)
            whole = mode is ReadMode.WHOLE
            answer = await (self._upstream.range(request, call.seconds) if whole else self._filtered(call, request))
            self._admission.note_read(call, [KeyRange(request.key, request.range_end)])
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
        async with self._admission.admitted(context, "Put", request) as call:
            policy.check_understood(request)
            needed = self._needed(call, [request], policy.cost_of(self._keys, [request]))

            def check(facts: Facts) -> None:
                policy.check_put(call.caller, self._keys, request, facts, call.limits.statuses)

            facts, written = await self._decide(call, needed, [rpc.RequestOp(request_put=request)], check)
            if written is not None:
                answer = written.responses[0].response_put
                answer.header.CopyFrom(written.header)
            else:
                answer = await self._upstream.put(request, call.seconds)
            self._note(call, [request], [KeyRange(request.key)], "done", facts)
        return answer

    async def DeleteRange(  # noqa: N802
        self, request: rpc.DeleteRangeRequest, context: _Context
    ) -> rpc.DeleteRangeResponse:
        async with self._admission.admitted(context, "DeleteRange", request) as call:
            policy.check_understood(request)
            policy.check_delete(call.caller, request)
            call.limits.spend(policy.cost_of(self._keys, [], 1), asyncio.get_running_loop().time())
            answer = await self._upstream.delete(request, call.seconds)
            deleted = KeyRange(request.key, request.range_end)
            self._note(call, [], [deleted], f"{answer.deleted} deleted", Facts())
        return answer

    async def Txn(self, request: rpc.TxnRequest, context: _Context) -> rpc.TxnResponse:  # noqa: N802
        async with self._admission.admitted(context, "Txn", request) as call:
            policy.check_understood(request)
            operations = list(policy.operations_of(request))
            cost = policy.cost_of_txn(self._keys, request)
            needed = self._needed(call, policy.puts_in(operations), cost)

            def check(facts: Facts) -> None:
                policy.check_txn(call.caller, self._keys, request, facts, call.limits.statuses)

            for operation in operations:
                if operation.HasField("request_range"):
                    _make_linearizable(operation.request_range)
            # Compares of the caller's own decide on another branch.
            facts, answer = await self._decide(call, needed, () if request.compare else request.success, check)
            if answer is None:
                answer = await self._upstream.txn(request, call.seconds, write=bool(cost.writes))
            taken = request.success if answer.succeeded else request.failure
            if read := policy.read_in(taken):
                self._admission.note_read(call, read)
            if cost.writes:
                outcome = "succeeded" if answer.succeeded else "not succeeded"
                self._note(call, policy.puts_in(taken), policy.written_in(taken), outcome, facts)
        return answer

    def _needed(self, call: AdmittedCall, puts: Sequence[rpc.PutRequest], cost: WriteCost) -> NeededFacts:
        """Take the cost of a request and return what its decision needs."""
        call.limits.spend(cost, asyncio.get_running_loop().time())
        return needed_facts(call.caller, self._keys, puts, call.limits.statuses)

    async def _decide(
        self,
        call: AdmittedCall,
        needed: NeededFacts,
        operations: Sequence[rpc.RequestOp],
        check: Callable[[Facts], None],
    ) -> tuple[Facts, rpc.TxnResponse | None]:
        """Write ``operations`` in the same request, without a read, if etcd is as usual; else read and decide.

        Returns:
            what the decision was made of, and the answer; None: allowed, but not written yet.

        Raises:
            Refused: ``check`` refuses the write.
        """
        guards = guards_of(call.caller, self._keys, needed) if operations else None
        if guards is not None:
            check(guards.facts)
            request = rpc.TxnRequest(compare=guards.compares(), success=operations)
            answer = await self._upstream.txn(request, call.seconds)
            if answer.succeeded:
                return guards.facts, answer
        facts = await look_up(self._upstream, self._keys, call.caller, needed, call.seconds)
        check(facts)
        return facts, None

    def _note(
        self, call: AdmittedCall, puts: Sequence[rpc.PutRequest], keys: Sequence[KeyRange], outcome: str, facts: Facts
    ) -> None:
        call.limits.statuses |= statuses_in(call.caller, self._keys, puts)
        self._admission.audit.written(call.source, call.method, keys, outcome, puts, facts.stored)


def _make_linearizable(request: rpc.RangeRequest) -> None:
    """Keep a member that lags from showing the caller an older state."""
    request.serializable = False


async def look_up(upstream: Upstream, keys: Keys, caller: Caller, needed: NeededFacts, seconds: float) -> Facts:
    """Read the needed facts by linearizable reads, in one unless they are many.

    Raises:
        UpstreamFailed: etcd could not be read.
    """
    wanted = sorted(needed.stored)
    ranges = [rpc.RangeRequest(key=key.encode()) for key in wanted]
    if needed.count_statuses:
        prefix = keys.statuses_prefix(caller.name).encode()
        ranges.append(rpc.RangeRequest(key=prefix, range_end=end_of(prefix), count_only=True))
    found: list[rpc.RangeResponse] = []
    for start in range(0, len(ranges), MAX_OPERATIONS):
        batch = ranges[start : start + MAX_OPERATIONS]
        request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=asked) for asked in batch])
        answer = await upstream.txn(request, seconds, write=False)
        found.extend(response.response_range for response in answer.responses)
    stored = {
        key: bytes(read.kvs[0].value) if read.kvs else None
        for key, read in zip(wanted, found[: len(wanted)], strict=True)
    }
    return Facts(stored, found[-1].count if needed.count_statuses else 0)
