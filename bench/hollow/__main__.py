"""``python -m bench.hollow``: a process full of hollow agents, driven by lines on its input.

It says ``{"ready": …}`` once all agents run, and then answers each line with one line of JSON:

- ``created <release>``: by node, when (monotonic) its first container of that release was made; those that made one.
- ``watch <prefix>``: put plain watchers, one for each node, on ``<prefix><node>/``; answers once they stand.
- ``watched``: by node, when (monotonic) its watcher last heard of something.

It ends, without a goodbye, when its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog

from bench.hollow.fleet import Fleet
from bench.hollow.names import node_names
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings


class _Watchers:
    """What a watcher costs that does nothing."""

    def __init__(self, etcd: Etcd, names: list[str]) -> None:
        self._etcd = etcd
        self._names = names
        self._tasks: list[asyncio.Task[None]] = []
        self.heard: dict[str, float] = {}

    async def stand(self, prefix: str) -> None:
        standing = [asyncio.Event() for _ in self._names]
        for name, stands in zip(self._names, standing, strict=True):
            self._tasks.append(asyncio.create_task(self._follow(name, f"{prefix}{name}/", stands)))
        await asyncio.gather(*(each.wait() for each in standing))

    async def _follow(self, name: str, prefix: str, stands: asyncio.Event) -> None:
        async with aclosing(self._etcd.watch(prefix, start_revision=0)) as batches:
            async for batch in batches:
                if batch.events:
                    self.heard[name] = time.monotonic()
                stands.set()


async def _answer(line: str, fleet: Fleet, watchers: _Watchers) -> Any:
    command, _, argument = line.strip().partition(" ")
    if command == "created":
        release = int(argument)
        machines = {agent.name: agent.machine for agent in fleet.agents}
        return {name: one.first_create[release] for name, one in machines.items() if release in one.first_create}
    if command == "watch":
        await watchers.stand(argument)
        return {"watching": argument}
    if command == "watched":
        return watchers.heard
    raise SystemExit(f"bench.hollow: what is {command!r}?")


async def _serve(names: list[str], folder: Path, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Fleet(names, folder, settings) as fleet, Etcd(settings) as etcd:
        watchers = _Watchers(etcd, names)
        print(json.dumps({"ready": len(fleet.agents)}), flush=True)
        while line := await reader.readline():
            print(json.dumps(await _answer(line.decode(), fleet, watchers)), flush=True)
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hollow", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first node (default: 0)")
    parser.add_argument("--count", type=int, required=True, help="how many nodes: h00000, h00001 …")
    parser.add_argument("--folder", type=Path, required=True, help="where the agents' folders are put")
    arguments = parser.parse_args()
    settings = Settings.from_environ(dict(os.environ))
    if settings is None:
        parser.error("no etcd: set DEVOPSELLENCE_ETCD_ENDPOINTS")
    logging.basicConfig(level=logging.WARNING)
    # A line for each action of a thousand agents would be what is measured.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_serve(node_names(arguments.count, arguments.first), arguments.folder, settings))


if __name__ == "__main__":
    main()
