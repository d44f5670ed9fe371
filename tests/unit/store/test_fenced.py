"""Fenced writes and the log lines of their events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import structlog

from devopsellence.api.v1.stored_pb2 import Event
from devopsellence.store.errors import LeaseLost
from devopsellence.store.etcd import Compare, Delete, Put, TxnResult
from devopsellence.store.fenced import FencedWriter, Outdated, Written, log_events
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
PUT = Put("/t/k", b"v")
WRITTEN: Written = ("/t/k", b"v", Event())


class Fakes:
    """Fence, informers and events in one object."""

    def __init__(self, result: bool | Exception) -> None:
        self.result = result
        self.calls: list[str] = []

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        self.calls.append("txn")
        if isinstance(self.result, Exception):
            raise self.result
        return TxnResult(self.result, 1)

    def expect(self, written: Iterable[Written]) -> None:
        self.calls.append("expect" if list(written) == [WRITTEN] else "wrong")

    def forget_lease(self) -> None:
        self.calls.append("forget lease")


def writer(fakes: Any) -> FencedWriter:
    return FencedWriter(fakes, fakes.expect, fakes)


async def test_informers_expect_a_write_before_the_transaction() -> None:
    fakes = Fakes(True)
    await writer(fakes).commit([], [PUT], [WRITTEN], "raced")
    assert fakes.calls == ["expect", "txn"]


async def test_failed_compare_is_outdated() -> None:
    with pytest.raises(Outdated, match="raced"):
        await writer(Fakes(False)).commit([], [PUT], [WRITTEN], "raced")


async def test_lost_lease_of_events_is_forgotten() -> None:
    fakes = Fakes(LeaseLost("expired"))
    with pytest.raises(LeaseLost):
        await writer(fakes).commit([], [PUT], [WRITTEN], "raced")
    assert fakes.calls == ["expect", "txn", "forget lease"]


def test_events_are_logged_with_their_severity() -> None:
    events = [Event(severity=Event.WARNING, code="a", release=2), Event(severity=Event.INFO, code="b")]
    with structlog.testing.capture_logs() as lines:
        log_events(REF, events, host="app.example.com")
    assert [(line["log_level"], line["code"], line.get("release")) for line in lines] == [
        ("warning", "a", 2),
        ("info", "b", None),
    ]
    assert {line["host"] for line in lines} == {"app.example.com"}
