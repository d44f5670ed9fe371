"""Process that sends requests: ``python -m tests.support.load.clients PLAN REPORT``, the plan as JSON.

Requests are sent until the plan's time is over or SIGTERM comes; requests under way are finished. REPORT is kept up to
date and complete once ``done``; the time of each request is then in ``REPORT.samples``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import ssl
import sys
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.load.http import BadAnswer, Connection, HttpAnswer
from tests.support.load.plan import KEPT, KINDS, NEW, SLOW, SOCKET, Plan

_ANSWER_SECONDS: Final = 5.0
_REPORT_SECONDS: Final = 0.2
_WORD_SECONDS: Final = 0.1
_PAUSE_SECONDS: Final = 0.1  # after a failure, so that nobody who is away is stormed
_CLOSE: Final = "Connection: close\r\n"
_MOST_SAMPLES: Final = 1_000_000
_MOST_FAILURES: Final = 2_000
_MOST_VERSIONS: Final = 1_000


class Observations:
    """Observations of all clients of this process."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.failures: list[dict[str, object]] = []
        self.failed = 0
        self.connections = 0
        self.longest_gap = 0.0
        #: The moment when it was due (since the epoch), seconds until it was answered, the kind's number in KINDS.
        self.samples = array("d")
        self._last: float | None = None

    def answer(self, kind: str, due: float, seconds: float, version: str) -> None:
        """Record an answered request, just now."""
        now = time.monotonic()
        if kind in (KEPT, NEW):
            self.longest_gap = max(self.longest_gap, now - (self._last or now))
            self._last = now
        self.finished[kind] += 1
        if version in self.answered or len(self.answered) < _MOST_VERSIONS:
            self.answered[version] += 1
        if len(self.samples) < 3 * _MOST_SAMPLES:
            self.samples.extend((due, seconds, KINDS.index(kind)))

    def failure(self, client: str, due: float, seconds: float, error: Exception) -> None:
        """Record a failed request, just now."""
        self.failed += 1
        if len(self.failures) < _MOST_FAILURES:
            status = error.status if isinstance(error, BadAnswer) else 0
            words = str(error) or type(error).__name__
            self.failures.append({"at": due, "seconds": seconds, "client": client, "status": status, "error": words})

    def write(self, report: Path, *, done: bool) -> None:
        """Replace the report."""
        if done:
            with report.with_suffix(".samples").open("wb") as file:
                self.samples.tofile(file)
        content = {
            "done": done,
            "answered": self.answered,
            "finished": self.finished,
            "failures": self.failures,
            "failed": self.failed,
            "connections": self.connections,
            "longest_gap": self.longest_gap,
        }
        temporary = report.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(report)


class Clients:
    """Clients of a plan."""

    def __init__(self, plan: Plan, seen: Observations) -> None:
        self._plan = plan
        self._seen = seen
        self._trust = ssl.create_default_context(cafile=plan.authority) if plan.authority else None
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Stop sending; requests under way are finished."""
        self._stop.set()

    async def run(self) -> None:
        """Send requests until the plan's time is over, or :meth:`stop`."""
        plan = self._plan
        began = time.monotonic()
        steady = [KEPT] * plan.kept + [NEW] * plan.new
        asyncio.get_running_loop().call_later(plan.seconds, self.stop)
        async with asyncio.TaskGroup() as group:
            for number, kind in enumerate(steady):
                gap = len(steady) / plan.rate if plan.rate else 0.0
                group.create_task(self._ask_on(f"{kind}-{number}", kind, began + gap * number / len(steady), gap))
            for number in range(plan.slow):
                group.create_task(self._repeat(f"{SLOW}-{number}", SLOW, self._slow))
            for number in range(plan.sockets):
                group.create_task(self._repeat(f"{SOCKET}-{number}", SOCKET, self._socket))

    async def _ask_on(self, name: str, kind: str, first: float, gap: float) -> None:
        """Send requests in sequence, each at its due time or as soon as the previous is answered."""
        connection: Connection | None = None
        closes = kind == NEW and self._plan.server_closes
        for number in itertools.count():
            due = first + number * gap if gap else time.monotonic()
            await self._until(due)
            if self._stop.is_set():
                break
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    if connection is None:
                        connection = await self._connect()
                    answer = await connection.get(self._plan.path, headers=_CLOSE if closes else "")
                    version = _version(answer)
                    if closes:
                        await connection.closed()
            # Whatever went wrong is a failed request.
            except Exception as error:  # noqa: BLE001
                ends = True
                await self._failed(name, due, error)
            else:
                ends = kind == NEW or answer.last
                self._answered(kind, due, version)
            if ends and connection is not None:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def _repeat(self, name: str, kind: str, work: Callable[[], Awaitable[str]]) -> None:
        while not self._stop.is_set():
            due = time.monotonic()
            try:
                self._answered(kind, due, await work())
            except Exception as error:  # noqa: BLE001
                await self._failed(name, due, error)

    async def _slow(self) -> str:
        seconds = self._plan.slow_seconds
        async with asyncio.timeout(seconds + _ANSWER_SECONDS), self._own() as connection:
            return _version(await connection.get(f"/slow?seconds={seconds}"))

    async def _socket(self) -> str:
        """Exchange words on a WebSocket, then close the WebSocket."""
        ends = time.monotonic() + self._plan.socket_seconds
        async with asyncio.timeout(self._plan.socket_seconds + _ANSWER_SECONDS), self._own() as connection:
            await connection.socket("/ws")
            version = ""
            for number in itertools.count():
                answer = (await connection.exchange(str(number).encode())).decode()
                version, _, word = answer.partition(" ")
                if word != str(number):
                    raise BadAnswer(f"not the word that was sent: {answer!r}")
                if self._stop.is_set() or time.monotonic() > ends:
                    break
                await asyncio.sleep(_WORD_SECONDS)
            await connection.end_socket()
            return version

    @asynccontextmanager
    async def _own(self) -> AsyncIterator[Connection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            connection.close()

    async def _connect(self) -> Connection:
        connection = await Connection.to(self._plan.address, self._plan.port, self._plan.host, self._trust)
        self._seen.connections += 1
        return connection

    async def _until(self, due: float) -> None:
        seconds = due - time.monotonic()
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)
        else:
            await asyncio.sleep(0)

    def _answered(self, kind: str, due: float, version: str) -> None:
        seconds = time.monotonic() - due
        self._seen.answer(kind, time.time() - seconds, seconds, version)

    async def _failed(self, name: str, due: float, error: Exception) -> None:
        seconds = time.monotonic() - due
        self._seen.failure(name, time.time() - seconds, seconds, error)
        await self._until(time.monotonic() + _PAUSE_SECONDS)


def _version(answer: HttpAnswer) -> str:
    if answer.status != 200:
        raise BadAnswer(f"{answer.status} {answer.body[:100].decode(errors='replace')}", answer.status)
    return answer.body[:100].decode(errors="replace")


async def main(plan: Plan, report: Path) -> None:
    """Carry out a plan."""
    seen = Observations()
    clients = Clients(plan, seen)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, clients.stop)
    work = asyncio.ensure_future(clients.run())
    while not work.done():
        seen.write(report, done=False)
        await asyncio.wait([work], timeout=_REPORT_SECONDS)
    await work
    seen.write(report, done=True)


if __name__ == "__main__":
    asyncio.run(main(Plan.of_json(sys.argv[1]), Path(sys.argv[2])))
