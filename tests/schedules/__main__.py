"""``python -m tests.schedules SEED …``: play the schedules of these seeds; exit code 1 if a schedule ends badly.

A single seed is shown with steps and all log lines. Runs itself in a mount namespace of its own (``unshare``), because
each node has a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
import traceback
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TextIO

import structlog

from tests.schedules.cluster import Cluster
from tests.schedules.play import play
from tests.schedules.schedule import schedule
from tests.support.etcd import EtcdServer
from tests.support.need import own_mounts

#: So many at a time: most of their time they wait.
AT_ONCE = 10
#: Processes are killed, never the machine: a slow disk would only make all wait.
_WITHOUT_SYNC = ("--unsafe-no-fsync",)
_OWN_NAMESPACE = "SCHEDULES_OWN_NAMESPACE"


async def _one(seed: int, shared: EtcdServer, folder: Path) -> list[str]:
    structlog.contextvars.bind_contextvars(seed=seed)
    played = schedule(seed)
    begun = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            server = shared
            if played.own_etcd:
                server = EtcdServer(folder / f"etcd-{seed}", arguments=_WITHOUT_SYNC)
                stack.callback(server.kill)
                await asyncio.to_thread(server.start)
            cluster = await stack.enter_async_context(Cluster(played, server, f"/seed-{seed}/", folder / str(seed)))
            defects = await play(played, cluster)
            structlog.get_logger().info("schedule over", seconds=round(time.monotonic() - begun, 1), wrong=defects)
    except Exception:  # noqa: BLE001 - the other schedules go on
        return [traceback.format_exc()]
    return defects


async def _all(seeds: list[int], folder: Path) -> dict[int, list[str]]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def limited(seed: int) -> list[str]:
        async with at_once:
            return await _one(seed, shared, folder)

    with EtcdServer(folder / "etcd", arguments=_WITHOUT_SYNC) as shared:
        defects = await asyncio.gather(*(limited(seed) for seed in seeds))
    return dict(zip(seeds, defects, strict=True))


def _log_to(file: TextIO) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file),
    )
    logging.basicConfig(handlers=[logging.NullHandler()])


def _enter_namespace() -> None:
    """Replace this process by one in a mount namespace of its own, unless it is that already."""
    if os.environ.pop(_OWN_NAMESPACE, "") == "":
        os.environ[_OWN_NAMESPACE] = "yes"
        command = [*own_mounts(), sys.executable, "-m", "tests.schedules", *sys.argv[1:]]
        os.execvp(command[0], command)  # noqa: S606


def main() -> None:
    _enter_namespace()
    parser = argparse.ArgumentParser(prog="python -m tests.schedules", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--log", type=Path, help="where the log lines go")
    arguments = parser.parse_args()
    if len(arguments.seeds) == 1:
        print(schedule(arguments.seeds[0]), flush=True)
    started = time.monotonic()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="devopsellence-schedules-"))
        _log_to(stack.enter_context(arguments.log.open("w")) if arguments.log else sys.stderr)
        result = asyncio.run(_all(arguments.seeds, Path(folder)))
    for seed, wrong in result.items():
        if wrong:
            print(f"{schedule(seed)}\n  ends wrongly:", *wrong, sep="\n    - ")
    bad = sum(bool(wrong) for wrong in result.values())
    print(f"{len(result)} schedules, {bad} of them ended wrongly, {time.monotonic() - started:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
