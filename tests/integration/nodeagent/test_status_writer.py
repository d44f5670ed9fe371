"""Statuses and events against a real etcd: written again after any loss, and by one of two agents with one uid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Event, ServiceStatus
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.status import writer
from devopsellence.nodeagent.status.writer import StatusWriter
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.codec import decode
from devopsellence.store.errors import Ambiguous, Unavailable
from devopsellence.store.etcd import Compare, Delete, Etcd, KeyValue, Put, TxnResult
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from devopsellence.store.size import REPORT_BYTES
from tests.support.until import eventually

pytestmark = pytest.mark.etcd
REF = EnvironmentRef("acme", "shop", "production")


@pytest.fixture(autouse=True)
def without_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion is noticed at once; the deadline for an echo is for a foreign value and a watch that is behind."""
    monkeypatch.setattr(writer, "ECHO_SECONDS", 3600.0)


def _status(container: str = "c1", reason: str = "") -> AssignmentStatus:
    service = ServiceStatus(name="web", phase=ServiceStatus.RUNNING, container=container, hash="h", reason=reason)
    return AssignmentStatus(node="n1", node_uid="u1", generation=1, release=1, services=[service])


@asynccontextmanager
async def statuses(etcd: Etcd, folder: Path) -> AsyncIterator[StatusWriter]:
    with StateFolder(folder) as state:
        written = StatusWriter(etcd, etcd.keys, "n1", state, ThreadPool(1, "disk"))
        task = asyncio.create_task(written.run())
        try:
            yield written
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _shown(etcd: Etcd, container: str = "c1") -> KeyValue:
    async def look() -> KeyValue | None:
        stored = await etcd.get(etcd.keys.status("n1", REF))
        if stored is None or not stored.value.startswith(b"{"):
            return None
        status = decode(AssignmentStatus, stored.key, stored.value)
        return stored if [service.container for service in status.services] == [container] else None

    stored = await eventually("the status", look)
    assert stored is not None
    return stored


async def _codes(etcd: Etcd) -> list[str]:
    listing = await etcd.list(etcd.keys.events_prefix(REF))
    return [decode(Event, item.key, item.value).code for item in listing.items]


async def test_lost_status_is_written_again(etcd: Etcd, tmp_path: Path) -> None:
    async with statuses(etcd, tmp_path) as written:
        written.report(REF, _status, now=True)
        await _shown(etcd)
        for _ in range(5):
            await etcd.delete(etcd.keys.status("n1", REF))
            await _shown(etcd)


async def test_agent_that_does_not_report_writes_nothing_until_it_does(etcd: Etcd, tmp_path: Path) -> None:
    """Two agents of one uid see different containers; one reports at a time."""
    async with statuses(etcd, tmp_path / "a") as first, statuses(etcd, tmp_path / "b") as second:
        second.set_reporting(False)
        first.report(REF, _status, now=True)
        shown = await _shown(etcd)
        second.report(REF, lambda: _status("c2"), now=True)
        await second.write(REF)
        # Kept on disk all the same.
        assert b"c2" in next((tmp_path / "b" / "status").iterdir()).read_bytes()
        await etcd.delete(shown.key)
        again = await _shown(etcd)
        first.set_reporting(False)
        second.set_reporting(True)
        after = await _shown(etcd, "c2")
        assert after.version > again.version


async def test_events_are_stored_after_their_lease_was_revoked(etcd: Etcd, tmp_path: Path) -> None:
    async with statuses(etcd, tmp_path) as written:
        written.report(REF, _status, now=True)
        await _shown(etcd)
        written.report(REF, lambda: _status("c2"), now=True)
        await eventually("an event", lambda: _codes(etcd))
        (item,) = (await etcd.list(etcd.keys.events_prefix(REF))).items
        await etcd.revoke_lease(item.lease)
        assert await _codes(etcd) == []
        written.report(REF, lambda: _status("c3"), now=True)
        assert await eventually("another event", lambda: _codes(etcd)) == ["service_recreated"]


async def test_status_and_its_events_are_one_write(etcd: Etcd, tmp_path: Path) -> None:
    async with statuses(etcd, tmp_path) as written:
        written.report(REF, _status, now=True)
        await _shown(etcd)
        # The lease of the first event is granted when its status has been written.
        written.report(REF, lambda: _status("c2"), now=True)
        await eventually("an event", lambda: _codes(etcd))
        written.report(REF, lambda: _status("c3"), now=True)
        status = await _shown(etcd, "c3")
        events = (await etcd.list(etcd.keys.events_prefix(REF))).items
        assert status.mod_revision in [event.mod_revision for event in events]


class Unanswering(Etcd):
    """Client whose next transaction is carried out, if ``happens``, and then not answered."""

    happens = True
    silent = False

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        silent, self.silent = self.silent, False
        if silent and not self.happens:
            raise Unavailable("no answer")
        result = await super().txn(compares, operations)
        if silent:
            raise Ambiguous("no answer")
        return result


@pytest.mark.parametrize("happens", [True, False])
async def test_events_are_stored_once_although_their_write_was_not_answered(
    settings: Settings, tmp_path: Path, happens: bool
) -> None:
    async with Unanswering(settings) as etcd, statuses(etcd, tmp_path) as written:
        etcd.happens = happens
        written.report(REF, _status, now=True)
        await _shown(etcd)
        for number, container in enumerate(("c2", "c3", "c4"), 1):
            etcd.silent = number == 2
            written.report(REF, lambda container=container: _status(container), now=True)  # type: ignore[misc]
            await _shown(etcd, container)
            await written.write(REF)
            if number != 2:
                await eventually("all events", lambda: _codes(etcd), lambda codes, least=number: len(codes) >= least)  # type: ignore[misc]
        assert await _codes(etcd) == ["service_recreated"] * 3


async def test_status_of_any_length_is_written(etcd: Etcd, tmp_path: Path) -> None:
    async with statuses(etcd, tmp_path) as written:
        written.report(REF, lambda: _status(reason="€" * 3_000_000), now=True)
        assert len((await _shown(etcd)).value) <= REPORT_BYTES["AssignmentStatus"]
        written.report(REF, lambda: _status("c2"), now=True)
        await _shown(etcd, "c2")
