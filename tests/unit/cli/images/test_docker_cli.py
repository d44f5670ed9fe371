"""Child processes end with the command that needs them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from devopsellence.cli.images.docker_cli import stream_command


async def test_cancelled_command_ends_with_its_children(tmp_path: Path) -> None:
    # A plugin of docker is such a child. The fifo has no writer any more once both have ended.
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    begun = asyncio.Event()
    # The parent, like some versions of docker, waits for its child and does not end by SIGTERM itself.
    script = f"trap '' TERM; (trap - TERM; echo begun; exec sleep 1000) | tee {fifo}; wait"
    running = asyncio.create_task(
        stream_command(["sh", "-c", script], on_line=lambda line: begun.set() if line == "begun" else None)
    )
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    os.set_blocking(reader, True)
    try:
        while await asyncio.to_thread(os.read, reader, 100):
            pass
    finally:
        os.close(reader)


async def test_finished_command_is_not_signalled() -> None:
    done = await stream_command(["sh", "-c", "echo out; exit 3"])
    assert (done.code, done.output) == (3, "out\n")
