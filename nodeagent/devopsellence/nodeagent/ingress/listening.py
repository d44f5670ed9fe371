"""Which of the router's ports Envoy may be told to listen on, and what is wrong with the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from devopsellence.nodeagent.ingress.options import IngressOptions
from devopsellence.nodeagent.ingress.ports import why_not
from devopsellence.nodeagent.pool import Pool

RETRY_FIRST: Final = 1.0
RETRY_CAP: Final = 30.0
HTTP: Final = "--ingress-http-port"
HTTPS: Final = "--ingress-https-port"
PEER: Final = "--ingress-peer-port"


class Ports:
    """``open`` may be listened on: they were free, or are Envoy's already. ``problems``: why not, of others."""

    def __init__(self, options: IngressOptions, disk: Pool, check: Callable[[int, str], str] = why_not) -> None:
        self.open: frozenset[int] = frozenset()
        self.problems: dict[int, str] = {}
        self._options = {options.http_port: HTTP, options.https_port: HTTPS, options.peer_port: PEER}
        self._disk = disk
        self._check = check
        self._attempts = 0
        self._again = 0.0

    def ours(self, ports: Iterable[int]) -> None:
        """Envoy listens on these, and on no others."""
        self.open = frozenset(ports)

    def next_look(self, wanted: Iterable[int]) -> float | None:
        """When (on the loop's clock) the ports of ``wanted`` that could not be had are tried again."""
        return self._again if any(port not in self.open for port in wanted if port) else None

    async def look(self, wanted: Iterable[int]) -> None:
        """Find out about those that are not open yet."""
        missing = sorted({port for port in wanted if port} - self.open)
        now = asyncio.get_running_loop().time()
        new = [port for port in missing if port not in self.problems]
        if not new and now < self._again:
            return
        found = {port: await self._disk.run(partial(self._check, port, self._options[port])) for port in missing}
        self.problems = {port: problem for port, problem in found.items() if problem}
        self.open |= {port for port, problem in found.items() if not problem}
        self._attempts = self._attempts + 1 if self.problems else 0
        self._again = now + min(RETRY_CAP, RETRY_FIRST * 2.0**self._attempts)
