"""Clients of one host's web service, run on that host: ``clients.py STATUS SERVICE PORT SECONDS-BETWEEN REPORT``.

Each client asks on and on, one request after the other, and retries nothing. Before each request it looks up where the
service is, as a proxy on the host would: in the status that the agent keeps on disk. Half of the clients keep their
connection for as long as the server lets them and the service is where it was; the others make a new one each time.

At SIGTERM they finish what they have asked for. What they have seen is in REPORT all the time, and complete when that
says ``done``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_KEPT: Final = 2
_NEW: Final = 2
_ANSWER_SECONDS: Final = 5.0


@dataclass
class Seen:
    """What all clients of this host saw."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    last: float = field(default_factory=time.monotonic)
    longest_gap: float = 0.0

    def answer(self, version: str) -> None:
        """One request was answered, now."""
        now = time.monotonic()
        if self.answered:
            self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now
        self.answered[version] += 1


class Lookup:
    """Where the service is now. Cheap: a file that did not change is not read again."""

    def __init__(self, status: Path, service: str, port: int) -> None:
        self._status = status
        self._service = service
        self._port = port
        self._read: tuple[int, int] = (0, 0)
        self._address = ""

    def __call__(self) -> str:
        """``host:port``; empty when it is nowhere."""
        with suppress(FileNotFoundError):
            file = self._status.stat()
            # Every version is another file, put in place of the one before.
            if (file.st_ino, file.st_mtime_ns) != self._read:
                services = json.loads(self._status.read_bytes()).get("services", [])
                found = [each.get("address", "") for each in services if each["name"] == self._service]
                self._address = f"{found[0]}:{self._port}" if found and found[0] else ""
                self._read = (file.st_ino, file.st_mtime_ns)
        return self._address


class Client:
    """Asks for ``/`` and counts."""

    def __init__(self, name: str, lookup: Lookup, seen: Seen, *, keeps: bool) -> None:
        self._name = name
        self._lookup = lookup
        self._seen = seen
        self._keeps = keeps
        self._connection: tuple[str, asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, stop: asyncio.Event, between: float) -> None:
        """Until ``stop``."""
        while not stop.is_set():
            address = self._lookup()
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    version = await self._ask(address)
            # Whatever went wrong is a failed request.
            except Exception as error:  # noqa: BLE001
                self._close()
                failure = {"at": time.time(), "client": self._name, "address": address, "error": repr(error)}
                self._seen.failed.append(failure)
            else:
                self._seen.answer(version)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), between)
        self._close()

    async def _ask(self, address: str) -> str:
        if not address:
            raise ConnectionError("the service is nowhere")
        if self._connection is None or self._connection[0] != address:
            self._close()
            host, _, port = address.rpartition(":")
            self._connection = (address, *await asyncio.open_connection(host, int(port)))
            self._seen.connections += 1
        _, reader, writer = self._connection
        writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        if not self._keeps or headers.get("connection") == "close":
            self._close()
        if head[0].split()[1] != "200":
            raise ConnectionError(head[0])
        return body.decode()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection[2].close()
            self._connection = None


async def main(status: Path, service: str, port: int, between: float, report: Path) -> None:
    """Ask until SIGTERM, then write what was seen."""
    stop, seen = asyncio.Event(), Seen()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    lookup = Lookup(status, service, port)
    async with asyncio.TaskGroup() as group:
        for kept, count in ((True, _KEPT), (False, _NEW)):
            for number in range(count):
                client = Client(f"{'kept' if kept else 'new'}-{number}", lookup, seen, keeps=kept)
                group.create_task(client.run(stop, between))
        while not stop.is_set():
            _write(report, seen, done=False)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.2)
    _write(report, seen, done=True)


def _write(report: Path, seen: Seen, *, done: bool) -> None:
    said = {
        "done": done,
        "answered": dict(seen.answered),
        "failed": seen.failed,
        "connections": seen.connections,
        "longest_gap": seen.longest_gap,
    }
    temporary = report.with_suffix(".tmp")
    temporary.write_text(json.dumps(said))
    temporary.replace(report)


if __name__ == "__main__":
    _, its_status, its_service, its_port, seconds, its_report = sys.argv
    asyncio.run(main(Path(its_status), its_service, int(its_port), float(seconds), Path(its_report)))
