"""Reads of the gateway from etcd, whose first member may be silent."""

from __future__ import annotations

import pytest

from devopsellence.controller.gateway.upstream import asked_twice
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.errors import Rejected, StoreError, Unavailable

ANSWER = rpc.RangeResponse(count=1)


class Members:
    """Members of etcd, asked in turn: each fails with an error, or answers."""

    def __init__(self, *errors: StoreError | None) -> None:
        self._errors = list(errors)
        self.limits: list[float] = []

    async def ask(self, limit: float) -> rpc.RangeResponse:
        self.limits.append(limit)
        if (error := self._errors.pop(0)) is not None:
            raise error
        return ANSWER


async def test_silent_member_leaves_time_for_another() -> None:
    members = Members(Unavailable("no answer in time"), None)
    assert await asked_twice(members.ask, 10.0) == ANSWER
    assert [round(limit) for limit in members.limits] == [4, 10]


async def test_answer_of_the_first_member_is_enough() -> None:
    members = Members(None)
    assert await asked_twice(members.ask, 10.0) == ANSWER


@pytest.mark.parametrize("errors", [[Rejected("x")], [Unavailable("x"), Unavailable("y")]])
async def test_failure_is_that_of_the_last_member(errors: list[StoreError]) -> None:
    members = Members(*errors)
    with pytest.raises(type(errors[-1]), match=str(errors[-1])):
        await asked_twice(members.ask, 10.0)
    assert len(members.limits) == len(errors)
