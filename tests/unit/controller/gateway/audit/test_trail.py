"""The audit trail on disk: read back, followed, and a disk that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditRequest
from devopsellence.clock import Now
from devopsellence.controller.gateway.audit.selection import Selection
from devopsellence.controller.gateway.audit.trail import AuditOptions, AuditTrail, TrailUnavailable
from tests.unit.controller.gateway.rules.gateway_builders import ROOT

DAY = 86_400


class Clock:
    """Clock that a test sets."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0

    def __call__(self) -> Now:
        return Now(0.0, self.wall)


@asynccontextmanager
async def running(folder: Path, clock: Clock | None = None, mib: int = 8) -> AsyncIterator[AuditTrail]:
    async with AuditTrail(AuditOptions(folder, 90, mib << 20), clock or Clock(), retry=0.001) as trail:
        yield trail


def entry(name: str, **fields: Any) -> AuditEntry:
    return AuditEntry(id=name, caller="root", **fields)


async def read(trail: AuditTrail, **fields: int) -> list[str]:
    request = AuditRequest(limit=fields.get("limit", 0))
    if "since" in fields:
        request.since.FromSeconds(fields["since"])
    return [found.id async for chunk in trail.read(Selection(ROOT, request)) for found in chunk]


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


async def written(trail: AuditTrail, *names: str) -> None:
    """Add entries, and return when they are on disk."""
    with trail.follower() as follower:
        for name in names:
            trail.add(entry(name))
        seen: list[str] = []
        while seen[-1:] != list(names[-1:]):
            seen += [found.id for found in await follower.next()]


async def test_entries_are_read_back_also_by_the_next_program(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, clock) as trail:
        await written(trail, "a", "b")
        clock.wall += DAY
        await written(trail, "c")
        trail.add(entry("d"))
    # The last one was still to be written when the program ended.
    async with running(tmp_path, clock) as trail:
        assert await read(trail) == ["a", "b", "c", "d"]
        assert await read(trail, limit=2) == ["c", "d"]
        assert await read(trail, limit=3) == ["b", "c", "d"]
        assert await read(trail, since=int(clock.wall)) == ["c", "d"]


async def test_reports_have_files_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path) as trail:
        await written(trail, "own")
        await trail.store([entry("reported")])
        assert await read(trail) == ["own", "reported"]
        assert await read(trail, limit=1) == ["own", "reported"]
    assert {name.partition("-")[0] for name in sizes(tmp_path)} == {"gateway", "nodes"}


async def test_flood_of_reports_takes_no_space_of_the_gateways_entries(tmp_path: Path) -> None:
    async with running(tmp_path, mib=2) as trail:
        await written(trail, "own")
        for number in range(300):
            await trail.store([entry(f"{number}-{part}", summary="x" * 500) for part in range(20)])
        found = await read(trail)
        assert "own" in found
        assert "0-0" not in found
        assert "299-19" in found
    async with running(tmp_path) as trail:
        request = AuditRequest(caller="controller")
        told = [each.summary async for chunk in trail.read(Selection(ROOT, request)) for each in chunk]
    assert told
    assert all(text.startswith("delete entries of nodes up to 2027-01-15 before their time") for text in told)
    assert sum(sizes(tmp_path).values()) < (1 << 20) + 10_000


async def test_disk_that_refuses_stops_nothing_and_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.write_text("in the way")
    async with running(folder) as trail:
        trail.add(entry("a"))
        with pytest.raises(TrailUnavailable, match=r"the audit trail cannot be written to .*: Not a directory"):
            await trail.store([entry("reported")])
        # At once, without the disk.
        with pytest.raises(TrailUnavailable):
            await trail.store([entry("again")])
        assert trail.problem
        assert await read(trail) == []
        folder.unlink()
        await written(trail, "b")
        await trail.store([entry("at last")])
        assert not trail.problem
        first, told, second, reported = await read(trail)
        assert (first, second, reported) == ("a", "b", "at last")
        request = AuditRequest(caller="controller")
        (found,) = [each async for chunk in trail.read(Selection(ROOT, request)) for each in chunk]
        assert (found.id, found.summary, found.reason) == (told, "write the audit trail", "Not a directory")


async def test_report_that_cannot_be_written_stays_with_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such entry")

    async with running(tmp_path / "audit") as trail:
        with monkeypatch.context() as patched:
            patched.setattr("devopsellence.controller.gateway.audit.trail._append", broken)
            with pytest.raises(TrailUnavailable, match="the entries cannot be written"):
                await trail.store([entry("reported")])
        await trail.store([entry("again")])
        assert await read(trail) == ["again"]


async def test_entries_beyond_what_may_wait_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.write_text("in the way")
    async with running(folder) as trail:
        for number in range(10_050):
            trail.add(entry(str(number)))
        assert len(trail._waiting) == 10_000
        with trail.follower() as follower:
            folder.unlink()
            await follower.next()
        await written(trail, "after")
        request = AuditRequest(limit=1)
        (last,) = [each async for chunk in trail.read(Selection(ROOT, request)) for each in chunk]
        assert (last.id, last.left_out) == ("after", 50)


async def test_slow_follower_is_told_and_holds_nobody_up(tmp_path: Path) -> None:
    async with running(tmp_path) as trail:
        with trail.follower() as follower:
            for start in range(0, 12_000, 2000):
                await trail.store([entry(str(start + number)) for number in range(2000)])
            assert len(await follower.next()) == 10_000
            assert follower.missed
            trail.wake_followers()
            async with asyncio.timeout(5):
                assert await follower.next() == []
