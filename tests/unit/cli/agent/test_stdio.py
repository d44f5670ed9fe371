from __future__ import annotations

import asyncio
import io
import os
import threading
from pathlib import Path

import pytest

from devopsellence.cli.agent.stdio import StdioWriter, chunks

MUCH = os.urandom(1 << 20)


async def test_full_pipe_does_not_block_the_event_loop() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as other:
        outlet = StdioWriter(stream)
        work = asyncio.create_task(outlet.write(MUCH))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not work.done()
        read = asyncio.create_task(asyncio.to_thread(other.read, len(MUCH)))
        await work
        assert await read == MUCH


async def test_waiting_write_can_be_cancelled() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb"):
        work = asyncio.create_task(StdioWriter(stream).write(MUCH))
        for _ in range(100):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work


async def test_closed_reader_is_an_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, pytest.raises(BrokenPipeError):
        await StdioWriter(stream).write(MUCH)


async def test_file_and_memory_streams_are_written(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        await StdioWriter(stream).write(MUCH)
    assert (tmp_path / "file").read_bytes() == MUCH
    memory = io.TextIOWrapper(io.BytesIO())
    await StdioWriter(memory).write(MUCH)
    assert memory.buffer.getvalue() == MUCH


async def test_chunks_are_read_from_pipe_and_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(MUCH)
    with (tmp_path / "file").open("rb") as stream:
        assert b"".join([chunk async for chunk in chunks(stream.fileno())]) == MUCH
    reading, writing = os.pipe()
    source = os.fdopen(writing, "wb")
    with os.fdopen(reading, "rb") as stream:

        def write() -> None:
            with source:
                source.write(MUCH)

        writer = threading.Thread(target=write)
        writer.start()
        assert b"".join([chunk async for chunk in chunks(stream.fileno())]) == MUCH
        writer.join(timeout=30)
