"""Garbage collection of images: the schedule of sweeps, and the ledger on disk.

The choice of images is made in ``images.ledger``. A sweep runs a while after a release has settled or an environment
was removed, so the images just replaced stay available for a quick rollback. Without news there is no sweep.
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
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool

#: Delay between a settled release and the sweep.
SWEEP_SECONDS: Final = 600.0
_log = structlog.get_logger()


class ImageCollector:
    """Keeps the ledger and removes unused images. Lives on the event loop; call :meth:`load` first and :meth:`close`
    last."""

    def __init__(
        self,
        engine: ContainerEngine,
        path: Path,
        disk: ThreadPool,
        *,
        files: StateFiles | None = None,
        delay: float = SWEEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._file = ImageLedgerFile(path, files)
        self._disk = disk
        self._delay = delay
        self._clock = clock
        self._ledger = ImageLedger()
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        #: Release of each environment for the last scheduled sweep.
        self._swept_releases: dict[str, int] = {}

    async def load(self) -> None:
        """Load the ledger from disk. An unreadable ledger is dropped, and its images stay."""
        try:
            self._ledger = await self._disk.run(self._file.load)
        except (OSError, ValueError) as error:
            _log.warning("cannot read the image ledger", path=str(self._file.path), error=str(error))
        self._schedule()

    def close(self) -> None:
        """Stop sweeping."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def follow(self, desired: Desired, *, settled: bool) -> None:
        """Record the images of a desired state; schedule a sweep when a release has ``settled``."""
        environment, release = str(desired.ref), desired.release
        images = desired.images
        if not images <= self._ledger.releases.get(environment, {}).get(release, frozenset()):
            changed = self._ledger.with_release(environment, release, images, last_settled=desired.last_settled)
            self._change(changed)
        if settled and self._swept_releases.get(environment) != release:
            self._swept_releases[environment] = release
            self._schedule()

    def environment_removed(self, environment: str) -> None:
        """Record the removal of an environment from this node."""
        self._swept_releases.pop(environment, None)
        if environment in self._ledger.releases:
            self._change(self._ledger.environment_removed(environment))
            self._schedule()

    def image_pulled(self, action: Action, desired: Desired) -> None:
        """Record a successful pull action."""
        desired_service = desired.task_service if action.service == TASK else desired.services.get(action.service)
        if desired_service is not None:
            self.obtained(desired_service.image)

    def obtained(self, image: str) -> None:
        """Record an image pulled or loaded by the agent."""
        self._change(self._ledger.with_obtained(image, self._clock()))

    def requested(self, images: Iterable[str]) -> None:
        """Record the images of a deploy in progress."""
        self._change(self._ledger.with_requested(images, self._clock()))

    async def sweep(self) -> None:
        """Remove unused images now. EngineUnavailable if the engine does not answer."""
        images, in_use = await self._engine.call(_list_images)
        for image in unneeded_images(self._ledger, images, in_use, self._clock()):
            await self._remove(image)
        remaining = await self._engine.call(lambda docker: docker.images.stored())
        present = {name for image in remaining for name in (image.id, *image.digests)}
        gone = self._ledger.candidates(self._clock()) - present
        if gone:
            self._change(self._ledger.without(gone))

    async def _remove(self, image: StoredImage) -> None:
        # A new release or a starting deploy may need the image by now.
        if not {image.id, *image.digests}.isdisjoint(self._ledger.kept(self._clock())):
            return
        try:
            await self._engine.call(lambda docker: docker.images.remove(image))
        except EngineError as error:
            _log.info("cannot remove an unused image", image=image.id, tags=image.tags, error=str(error))
        else:
            _log.info("image removed", image=image.id, tags=image.tags, digests=image.digests)

    def _schedule(self) -> None:
        """Schedule a sweep, unless already scheduled."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay, self._start)

    def _start(self) -> None:
        self._timer = None
        self._sweeping = asyncio.create_task(self._sweep_or_retry())

    async def _sweep_or_retry(self) -> None:
        try:
            await self.sweep()
        except EngineError as error:
            _log.warning("image garbage collection failed", error=str(error))
            self._schedule()

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
            _log.warning("cannot save the image ledger", path=str(self._file.path), error=str(error))
        finally:
            self._saving = None


def _list_images(docker: DockerApi) -> tuple[Sequence[StoredImage], frozenset[str]]:
    # In this order: for a container created in between, the engine itself refuses to remove the image.
    return docker.images.stored(), docker.images.in_use()
