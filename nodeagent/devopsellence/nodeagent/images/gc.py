"""Taking away images that no release here needs any more: when, and with what is remembered on disk in between.

What may go is decided in ``ledger``. A sweep comes a while after something has settled or left, so that what was just
replaced is still there for a quick way back; with nothing new there is none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.docker.errors import EngineError
from devopsellence.nodeagent.docker.images import StoredImage
from devopsellence.nodeagent.docker.interface import ContainerEngine, DockerApi
from devopsellence.nodeagent.images.ledger import ImageLedger, ImageLedgerFile, unneeded_images
from devopsellence.nodeagent.plan.actions import TASK, Action
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.util.threads import ThreadPool

#: From a deploy that has settled to the sweep.
SWEEP_SECONDS: Final = 600.0
_log = structlog.get_logger()


class ImageCollector:
    """Keeps the ledger and sweeps. Lives on the event loop; call :meth:`load` first and :meth:`close` last."""

    def __init__(
        self,
        engine: ContainerEngine,
        path: Path,
        disk: ThreadPool,
        *,
        delay: float = SWEEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._file = ImageLedgerFile(path)
        self._disk = disk
        self._delay = delay
        self._clock = clock
        self._ledger = ImageLedger()
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        #: The newest release of each environment that a sweep was due for.
        self._settled: dict[str, int] = {}

    async def load(self) -> None:
        """Take up what is on disk; what cannot be read is forgotten, and its images stay."""
        try:
            self._ledger = await self._disk.run(self._file.load)
        except (OSError, ValueError) as error:
            _log.warning("which images may go cannot be read", path=str(self._file.path), error=str(error))
        self._later()

    def close(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def follow(self, want: Desired, *, settled: bool) -> None:
        """This is assigned; ``settled``: and it runs."""
        env, release = str(want.env), want.release
        images = want.images
        if not images <= self._ledger.releases.get(env, {}).get(release, frozenset()):
            self._change(self._ledger.with_release(env, release, images))
        if settled and self._settled.get(env) != release:
            self._settled[env] = release
            self._later()

    def environment_removed(self, env: str) -> None:
        """An environment has left this node."""
        self._settled.pop(env, None)
        if env in self._ledger.releases:
            self._change(self._ledger.environment_removed(env))
            self._later()

    def image_pulled(self, action: Action, want: Desired) -> None:
        """This pull has succeeded."""
        wanted = want.task_wanted if action.service == TASK else want.services.get(action.service)
        if wanted is not None:
            self.obtained(wanted.image)

    def obtained(self, image: str) -> None:
        """We have pulled or loaded an image."""
        self._change(self._ledger.with_obtained(image, self._clock()))

    def requested(self, images: Iterable[str]) -> None:
        """A deploy that is under way needs these."""
        self._change(self._ledger.with_requested(images, self._clock()))

    async def sweep(self) -> None:
        """Take away what may go now. EngineUnavailable if the engine does not answer."""
        images, in_use = await self._engine.call(_look)
        for image in unneeded_images(self._ledger, images, in_use, self._clock()):
            await self._remove(image)
        left = await self._engine.call(lambda docker: docker.images.stored())
        there = {name for image in left for name in (image.id, *image.digests)}
        gone = self._ledger.candidates(self._clock()) - there
        if gone:
            self._change(self._ledger.without(gone))

    async def _remove(self, image: StoredImage) -> None:
        # A new release, or a deploy that has asked for it, may have come since the engine was looked at.
        if not {image.id, *image.digests}.isdisjoint(self._ledger.kept(self._clock())):
            return
        try:
            await self._engine.call(lambda docker: docker.images.remove(image))
        except EngineError as error:
            _log.info("an image that nothing needs stays", image=image.id, tags=image.tags, error=str(error))
        else:
            _log.info("image removed", image=image.id, tags=image.tags, digests=image.digests)

    def _later(self) -> None:
        """One sweep, a while from now."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay, self._start)

    def _start(self) -> None:
        self._timer = None
        self._sweeping = asyncio.create_task(self._swept())

    async def _swept(self) -> None:
        try:
            await self.sweep()
        except EngineError as error:
            _log.warning("images could not be looked through", error=str(error))
            self._later()

    def _change(self, ledger: ImageLedger) -> None:
        self._ledger = ledger
        if self._saving is None:
            self._saving = asyncio.create_task(self._save())

    async def _save(self) -> None:
        saved: ImageLedger | None = None
        try:
            while saved is not self._ledger:
                saved = self._ledger
                await self._disk.run(partial(self._file.save, saved))
        except OSError as error:
            _log.warning("which images may go cannot be kept on disk", path=str(self._file.path), error=str(error))
        finally:
            self._saving = None


def _look(docker: DockerApi) -> tuple[Sequence[StoredImage], frozenset[str]]:
    # In this order: a container that comes in between keeps its image by the engine's own refusal.
    return docker.images.stored(), docker.images.in_use()
