"""Hung containers: the engine answers, but nothing about them.

The engine holds a lock on a container while it talks to the container's containerd-shim. If the shim is stopped or
stuck, every call about the container waits for ever, even an inspection, while lists and calls about other containers
work. So the sign of a hung container is an inspection without an answer, from an engine that answers a ping. Calls
about a hung container end at once with ContainerHung; one inspection goes on waiting, and its answer ends the state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from devopsellence.nodeagent.docker.errors import ContainerHung, EngineError, TimedOut

T = TypeVar("T")

#: Time after which a call about a container leads to an inspection, and an inspection without an answer to a ping.
HUNG_SECONDS: Final = 10.0


class HungContainers:
    """Containers about which the engine does not answer.

    ``inspect(container)`` inspects a container and stores the answer; ``ping`` raises EngineUnavailable if the engine
    itself does not answer; ``changed(container)`` is called when a container hangs, and when it answers again.
    """

    def __init__(
        self,
        inspect: Callable[[str], Awaitable[None]],
        ping: Callable[[], Awaitable[None]],
        changed: Callable[[str], None],
        patience: float = HUNG_SECONDS,
    ) -> None:
        self._inspect = inspect
        self._ping = ping
        self._changed = changed
        self._patience = patience
        self._since: dict[str, float] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        #: By container: futures of the calls under way, done when the container hangs.
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    @property
    def since(self) -> Mapping[str, float]:
        """Hung containers (id), with the time (monotonic) of the first question without an answer."""
        return self._since

    async def guard(self, container: str, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of a call about a container.

        Raises:
            ContainerHung: the engine does not answer about the container; the call's outcome is unknown.
        """
        if container in self._since:
            call.close()
            raise ContainerHung(_sentence(container))
        running = asyncio.ensure_future(call)
        hung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(container, set())
        waiting.add(hung)
        try:
            while not running.done() and not hung.done():
                both: set[asyncio.Future[Any]] = {running, hung}
                done, _ = await asyncio.wait(both, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    self._check(container)
            if running.done():
                return running.result()
            raise ContainerHung(_sentence(container))
        finally:
            running.cancel()
            waiting.discard(hung)
            if not waiting and self._waiting.get(container) is waiting:
                del self._waiting[container]

    def suspect(self, container: str) -> None:
        """Treat a container as hung from now on, until an inspection is answered."""
        self._mark(container)
        self._check(container)

    def clear(self) -> None:
        """Forget everything: the connection to the engine is lost."""
        for check in self._checks.values():
            check.cancel()
        self._checks.clear()
        self._since.clear()

    def _mark(self, container: str, since: float | None = None) -> None:
        if container not in self._since:
            self._since[container] = since if since is not None else asyncio.get_running_loop().time()
            for waiting in self._waiting.get(container, ()):
                if not waiting.done():
                    waiting.set_result(None)
            self._changed(container)

    def _check(self, container: str) -> None:
        """Inspect a container unless an inspection is under way."""
        if container not in self._checks:
            task = self._checks[container] = asyncio.create_task(self._until_answered(container))
            task.add_done_callback(lambda done: self._checked(container, done))

    def _checked(self, container: str, done: asyncio.Task[None]) -> None:
        if self._checks.get(container) is not done:
            return
        del self._checks[container]
        if self._since.pop(container, None) is not None:
            self._changed(container)

    async def _until_answered(self, container: str) -> None:
        asked = asyncio.get_running_loop().time()
        while True:
            inspection = asyncio.ensure_future(self._inspect(container))
            try:
                await asyncio.wait({inspection}, timeout=self._patience)
                if not inspection.done():
                    await self._ping()
                    if not inspection.done():
                        self._mark(container, asked)
                await inspection
            except TimedOut:
                continue
            except EngineError:
                # Gone, refused, or the connection is lost: an answer, or no container's fault.
                return
            finally:
                inspection.cancel()
            return


def _sentence(container: str) -> str:
    short = container[:12]
    return f"the Docker Engine does not answer about container {short}: its containerd-shim is stopped or stuck"
