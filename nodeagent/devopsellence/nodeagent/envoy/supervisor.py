"""Has one Envoy run on the node, or none: finds it, makes it, brings it back, and puts the next beside the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from devopsellence.nodeagent.docker.client import Docker
from devopsellence.nodeagent.docker.errors import EngineError, EngineUnavailable
from devopsellence.nodeagent.envoy import container, image
from devopsellence.nodeagent.envoy.admin import Admin, AdminSilent
from devopsellence.nodeagent.envoy.container import EnvoySpec, Found
from devopsellence.nodeagent.envoy.files import EnvoyFolder
from devopsellence.nodeagent.util.threads import Pool

T = TypeVar("T")

RETRY_FIRST: Final = 1.0
#: It is looked at this often for what no event told of, and no wait for another attempt is longer.
LOOK_SECONDS: Final = 60.0
#: A replaced Envoy is asked this often whether its requests have ended.
_ASK_SECONDS: Final = 0.25
_log = structlog.get_logger()


class Engine(Protocol):
    """What of ``engine.Engine`` is needed here."""

    async def call(self, call: Callable[[Docker], T]) -> T: ...

    async def stop(self, call: Callable[[Docker], T]) -> T: ...

    async def pull(self, call: Callable[[Docker], T]) -> T: ...


@dataclass(frozen=True)
class Wanted:
    """Which Envoy is to run. ``image`` is as in the options."""

    node: str
    node_uid: str
    image: str
    bootstrap: bytes
    concurrency: int = field(default=1)

    def spec(self, folder: EnvoyFolder, name: str) -> EnvoySpec:
        """The container's, of the image that the engine knows as ``name``."""
        return EnvoySpec(
            self.node, self.node_uid, name, folder.path, self.bootstrap, self.concurrency, container.user()
        )


class Keeper:
    """``run`` works until cancelled. ``changed`` is called when something below is another than it was.

    ``looked``: the engine has been asked at least once. ``running``: the hash of the Envoy that runs, "" if none does.
    ``problem``: why it is not as wanted; ``failed``: and that will not end by itself soon.
    """

    def __init__(
        self, engine: Engine, node_uid: str, folder: EnvoyFolder, disk: Pool, changed: Callable[[], None]
    ) -> None:
        self.looked = False
        self.running = ""
        self.problem = ""
        self.failed = False
        self._engine = engine
        self._uid = node_uid
        self._folder = folder
        self._disk = disk
        self._changed = changed
        self._wanted: Wanted | None = None
        self._asked = False
        self._confirmed = ""
        self._ending: set[str] = set()
        self._id = ""
        self._wake = asyncio.Event()

    def want(self, wanted: Wanted | None) -> None:
        """Have this run from now on; None: nothing. The same again costs nothing."""
        if wanted != self._wanted or not self._asked:
            self._wanted, self._asked = wanted, True
            self.look()

    def confirm(self, spec_hash: str) -> None:
        """The Envoy with this hash serves: one that it replaces may end."""
        if spec_hash != self._confirmed:
            self._confirmed = spec_hash
            self.look()

    def look(self) -> None:
        """Something may have happened to it, or the engine is back."""
        self._wake.set()

    @property
    def admins(self) -> list[Admin]:
        """The admin interfaces of whatever serves: first that of :attr:`running`, then of those that it replaces."""
        hashes = [self.running, *sorted(self._ending - {self.running})]
        return [Admin(container.run_folder(self._folder.path, hash_)) for hash_ in hashes if hash_]

    async def last_words(self) -> str:
        """What Envoy said last; "" if that cannot be known."""
        with suppress(EngineError):
            return await self._engine.call(partial(container.last_words, container=self._id)) if self._id else ""
        return ""

    async def run(self) -> None:
        """Keep it so until cancelled."""
        attempts = 0
        self._wake.set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    min(LOOK_SECONDS, RETRY_FIRST * 2.0**attempts) if attempts else LOOK_SECONDS
                ):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._converge()
            except EngineUnavailable:
                # It is said in the heartbeat; the connection's return wakes us. Envoy goes on meanwhile.
                attempts = 1
            except (EngineError, OSError) as error:
                attempts += 1
                _log.warning("the router's container is not as it should be", error=str(error))
                self._say(str(error), failed=True)
            else:
                attempts = 0
                self._say("")

    async def _converge(self) -> None:
        found = await self._find()
        if not self._asked:
            # What the last agent has left goes on until it is known what is wanted.
            return
        if self._wanted is None:
            for each in found:
                await self._engine.stop(partial(container.end, container=each.id))
                _log.info("the router has ended", name=each.name)
            if found:
                await self._find()
            await self._disk.run(partial(self._folder.end, ()))
            return
        spec = self._wanted.spec(self._folder, image.image_name(self._wanted.image))
        mine = next((each for each in found if each.hash == spec.hash), None)
        if mine is None or not mine.running:
            await self._start(spec, mine, self._wanted.image)
            found = await self._find()
        for each in found:
            if each.hash != spec.hash and (not each.running or self._confirmed == spec.hash):
                await self._retire(each)
        if self._confirmed == spec.hash and self._ending:
            await self._find()
            await self._disk.run(partial(self._folder.end, (spec.hash,)))

    async def _find(self) -> list[Found]:
        """What is there, and what follows from it for everybody else."""
        found = await self._engine.call(partial(container.find, node_uid=self._uid))
        running = [each for each in found if each.running]
        wanted = ""
        if self._wanted is not None:
            with suppress(EngineError):
                wanted = self._wanted.spec(self._folder, image.image_name(self._wanted.image)).hash
        mine = next((each for each in running if each.hash == wanted), running[0] if running else None)
        before = (self.looked, self.running, self._ending)
        self.looked = True
        self.running, self._id = (mine.hash, mine.id) if mine is not None else ("", "")
        self._ending = {each.hash for each in running} - {self.running}
        if (self.looked, self.running, self._ending) != before:
            self._changed()
        return found

    async def _start(self, spec: EnvoySpec, stopped: Found | None, image_wanted: str) -> None:
        loop = asyncio.get_running_loop()

        def progress(sentence: str) -> None:
            # RuntimeError: the loop has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._say, sentence)

        await self._engine.pull(partial(image.provide, image=image_wanted, progress=progress))
        await self._disk.run(partial(self._folder.begin, spec.hash, spec.bootstrap))
        made = stopped.id if stopped is not None else await self._engine.call(partial(_create, spec=spec))
        await self._engine.call(partial(container.begin, container=made))
        _log.info("the router runs", name=spec.name, image=spec.image)

    async def _retire(self, old: Found) -> None:
        """End one that another has replaced: first its clients go elsewhere."""
        admin = Admin(container.run_folder(self._folder.path, old.hash))
        with suppress(AdminSilent, TimeoutError):
            async with asyncio.timeout(container.DRAIN_SECONDS):
                await admin.drain()
                while old.running and await admin.requests():  # noqa: ASYNC110 - Envoy does not tell
                    await asyncio.sleep(_ASK_SECONDS)
        await self._engine.stop(partial(container.end, container=old.id))
        _log.info("the router's former container has ended", name=old.name)

    def _say(self, problem: str, *, failed: bool = False) -> None:
        if (problem, failed) != (self.problem, self.failed):
            self.problem, self.failed = problem, failed
            self._changed()


def _create(docker: Docker, spec: EnvoySpec) -> str:
    return docker.create(spec.name, spec.body())
