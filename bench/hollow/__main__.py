"""``python -m bench.hollow``: a process with many hollow agents, controlled by lines on stdin.

Prints ``{"ready": …}`` once all agents run, then answers every line with a line of JSON:

- ``followed <release>``: number of agents that follow the assignment of the release, and the time of the last.
- ``created <release>``: time (monotonic) of the first container of the release, by node.

Exits without stopping the agents when stdin ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

from bench.hollow.fleet import Fleet
from bench.hollow.names import node_names
from devopsellence.store.settings import Settings


class _Followed:
    """Log processor that records when agents start to follow an assignment.

    Drops routine lines: a log line for every action of a thousand agents would distort the measurement.
    """

    def __init__(self) -> None:
        self.moments: dict[int, list[float]] = {}

    def __call__(self, _logger: Any, method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if entry["event"] == "following an assignment":
            self.moments.setdefault(entry["release"], []).append(time.monotonic())
        if method in ("debug", "info"):
            raise structlog.DropEvent
        return entry


async def _answer(line: str, fleet: Fleet, followed: _Followed) -> Any:
    command, _, argument = line.strip().partition(" ")
    if command == "followed":
        moments = followed.moments.get(int(argument), [])
        return {"count": len(moments), "last": max(moments, default=0.0)}
    if command == "created":
        release = int(argument)
        machines = {agent.name: agent.machine for agent in fleet.agents}
        return {name: one.first_create[release] for name, one in machines.items() if release in one.first_create}
    raise SystemExit(f"bench.hollow: what is {command!r}?")


async def _serve(fleet_of: Fleet, followed: _Followed) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with fleet_of as fleet:
        print(json.dumps({"ready": len(fleet.agents)}), flush=True)
        while line := await reader.readline():
            print(json.dumps(await _answer(line.decode(), fleet, followed)), flush=True)
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hollow", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first node (default: 0)")
    parser.add_argument("--count", type=int, required=True, help="how many nodes: h00000, h00001 …")
    parser.add_argument("--folder", type=Path, required=True, help="where the agents' folders are put")
    parser.add_argument("--certificates", type=Path, help="folder with a certificate of each node (default: shared)")
    arguments = parser.parse_args()
    settings = Settings.from_environ(dict(os.environ))
    if settings is None:
        parser.error("no etcd: set DEVOPSELLENCE_ETCD_ENDPOINTS")
    logging.basicConfig(level=logging.WARNING)
    followed = _Followed()
    structlog.configure(
        processors=[followed, structlog.dev.ConsoleRenderer(colors=False)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Each agent may have several connections.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    names = node_names(arguments.count, arguments.first)
    fleet = Fleet(names, arguments.folder, settings, certificates=arguments.certificates)
    asyncio.run(_serve(fleet, followed))


if __name__ == "__main__":
    main()
