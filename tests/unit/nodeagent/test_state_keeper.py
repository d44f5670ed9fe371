"""Upkeep of the agent's folder: damage is noticed by itself, failed writes are repeated by themselves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.state_keeper import StateKeeper
from devopsellence.nodeagent.util.threads import ThreadPool


class Kept:
    """A folder with a running keeper, and what it has told."""

    def __init__(self, folder: Path) -> None:
        self.files = StateFiles(folder)
        self.disk = ThreadPool(1, "disk")
        self.problems: asyncio.Queue[str] = asyncio.Queue()
        self.restored: asyncio.Queue[list[Path]] = asyncio.Queue()
        self.keeper = StateKeeper(self.files, self.disk, self.problems.put_nowait, self.restored.put_nowait)

    async def write(self, path: Path, content: bytes) -> None:
        await self.disk.run(lambda: self.files.write(path, content, sync=False))

    async def watches(self, folder: Path) -> None:
        """Wait until the keeper has seen the folder."""
        while folder not in self.keeper.watched:  # noqa: ASYNC110 - the keeper tells of damage only
            await asyncio.sleep(0)


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[Kept]:
    running = Kept(folder)
    task = asyncio.create_task(running.keeper.run())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_damage_is_noticed_in_folders_old_and_new(tmp_path: Path) -> None:
    first, second = tmp_path / "memory" / "a.json", tmp_path / "envoy" / "config" / "lds.json"
    async with kept(tmp_path) as running:
        for path in (first, second):
            await running.write(path, b"right")
            await running.watches(path.parent)
            path.write_bytes(b"wrong")
            assert await running.restored.get() == [path]
            assert path.read_bytes() == b"right"
            path.unlink()
            assert await running.restored.get() == [path]
        shutil.rmtree(second.parent)
        assert await running.restored.get() == [second]
        # The folder that was created again is watched as well.
        second.unlink()
        assert await running.restored.get() == [second]
    assert running.problems.empty()


async def test_own_writes_are_no_damage(tmp_path: Path) -> None:
    path, marker = tmp_path / "memory" / "a.json", tmp_path / "memory" / "b.json"
    async with kept(tmp_path) as running:
        await running.write(marker, b"right")
        await running.watches(path.parent)
        for number in range(20):
            await running.write(path, b"%d" % number)
        marker.unlink()
        assert await running.restored.get() == [marker]
        assert running.restored.empty()


async def test_failed_write_is_told_and_repeated(tmp_path: Path) -> None:
    blocked = tmp_path / "memory"
    async with kept(tmp_path) as running:
        blocked.touch()
        with pytest.raises(OSError):
            await running.write(blocked / "a.json", b"right")
        assert str(blocked.relative_to(tmp_path)) in await running.problems.get()
        blocked.unlink()
        assert await running.problems.get() == ""
        assert (blocked / "a.json").read_bytes() == b"right"


async def test_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.touch()
    async with kept(folder) as running:
        assert str(folder) in await running.problems.get()
