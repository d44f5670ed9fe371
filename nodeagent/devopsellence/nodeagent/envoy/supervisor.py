"""Supervisor of the node's single Envoy: create, start, restart and replace the container."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.docker.creation import create_container
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.errors import EngineError, EngineUnavailable
from devopsellence.nodeagent.envoy import container, image
from devopsellence.nodeagent.envoy.admin import AdminClient, AdminUnavailable
from devopsellence.nodeagent.envoy.container import EnvoyContainer, EnvoySpec
from devopsellence.nodeagent.envoy.files import EnvoyFolder
from devopsellence.nodeagent.envoy.kernel import let_connections_migrate
from devopsellence.nodeagent.util.threads import ThreadPool

RETRY_FIRST: Final = 1.0
#: Interval of checks without an event, and the longest pause between attempts.
RESYNC_SECONDS: Final = 60.0
#: Interval at which a replaced Envoy is asked for its open connections.
_DRAIN_POLL_SECONDS: Final = 0.25
_log = structlog.get_logger()


@dataclass(frozen=True)
class DesiredEnvoy:
    """The Envoy to run. ``image`` is as in :class:`~devopsellence.nodeagent.envoy.model.IngressOptions`."""

    node: str
    node_uid: str
    image: str
    bootstrap: bytes
    concurrency: int = field(default=1)

    def spec(self, folder: EnvoyFolder, image_name: str, instance: str) -> EnvoySpec:
        """Return the container's specification; ``image_name`` is Docker's name of the image."""
        user = container.user()
        return EnvoySpec(
            self.node, self.node_uid, image_name, folder.path, self.bootstrap, self.concurrency, user, instance
        )


class EnvoySupervisor:
    """Supervisor task: :meth:`run` works until cancelled. ``changed`` is called when an attribute below changes.

    ``observed``: Docker has been asked at least once. ``running``: hash of the running Envoy, "" if none runs.
    ``problem``: why Envoy does not run as desired. ``failed``: the problem is not a short delay.
    """

    def __init__(
        self, engine: DockerEngine, node_uid: str, folder: EnvoyFolder, disk: ThreadPool, changed: Callable[[], None]
    ) -> None:
        self.observed = False
        self.running = ""
        self.problem = ""
        self.failed = False
        self._engine = engine
        self._uid = node_uid
        self._folder = folder
        self._disk = disk
        self._changed = changed
        self._desired: DesiredEnvoy | None = None
        self._desired_known = False
        self._confirmed = ""
        #: Sentence about containers with the labels of an Envoy that the agent has not created.
        self._foreign = ""
        #: Instance of the container to run; None: not read from disk yet.
        self._instance: str | None = None
        #: Folders of the admin sockets of other running Envoys, by hash.
        self._being_replaced: dict[str, Path] = {}
        self._id = ""
        self._wake = asyncio.Event()

    def set_desired(self, desired: DesiredEnvoy | None) -> None:
        """Set the Envoy to run from now on; None: none. Cheap if nothing changed."""
        if desired != self._desired or not self._desired_known:
            self._desired, self._desired_known = desired, True
            self.check()

    def confirm(self, spec_hash: str) -> None:
        """Note that the Envoy with this hash serves: an Envoy that it replaces may stop."""
        if spec_hash != self._confirmed:
            self._confirmed = spec_hash
            self.check()

    def check(self) -> None:
        """Check the container soon: an event arrived, or Docker is reachable again."""
        self._wake.set()

    @property
    def admins(self) -> list[AdminClient]:
        """Admin clients of all serving Envoys: first of :attr:`running`, then of Envoys being replaced."""
        running = [container.run_folder(self._folder.path, self.running)] if self.running else []
        return [AdminClient(folder) for folder in (*running, *self._being_replaced.values())]

    async def last_log_line(self) -> str:
        """Return the last log line of Envoy; "" if Docker cannot provide the line."""
        with suppress(EngineError):
            if self._id:
                return await self._engine.call(partial(container.last_log_line, container=self._id), about=self._id)
        return ""

    async def run(self) -> None:
        """Keep the desired Envoy running until cancelled."""
        attempts = 0
        self._wake.set()
        while True:
            pause = min(RESYNC_SECONDS, RETRY_FIRST * 2.0**attempts) if attempts else RESYNC_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._converge()
            except EngineUnavailable:
                # The heartbeat reports it, and the supervisor is woken on reconnection. Envoy goes on meanwhile.
                attempts = 1
            except (EngineError, OSError) as error:
                attempts += 1
                _log.warning("Envoy's container could not be brought to its desired state", error=str(error))
                self._set_problem(str(error), failed=True)
            else:
                attempts = 0
                self._set_problem(self._foreign)

    async def _converge(self) -> None:
        if self._instance is None:
            self._instance = await self._disk.run(self._folder.instance)
        containers = await self._observe()
        if not self._desired_known:
            # Envoys of the last agent go on until the desired state is known.
            return
        if self._desired is None:
            for envoy in containers:
                await self._engine.stop(partial(container.remove, container=envoy.id), about=envoy.id)
                self._engine.owned.forget(envoy.id)
                _log.info("Envoy stopped", name=envoy.name)
            if containers:
                await self._observe()
            await self._disk.run(partial(self._folder.remove_run_folders, ()))
            return
        spec = self._desired.spec(self._folder, image.image_name(self._desired.image), self._instance)
        current = next((envoy for envoy in containers if envoy.hash == spec.hash), None)
        if (
            current is not None
            and current.running
            and not await self._disk.run(partial(self._folder.is_mounted, spec.hash))
        ):
            _log.warning("Envoy's folder was replaced by somebody, so another Envoy takes over", name=current.name)
            self._instance = secrets.token_hex(4)
            spec = replace(spec, instance=self._instance)
            current = None
        if current is None or not current.running:
            await self._start(spec, current, self._desired.image)
            containers = await self._observe()
        for envoy in containers:
            if envoy.hash != spec.hash and (not envoy.running or self._confirmed == spec.hash):
                await self._retire(envoy)
        if self._confirmed == spec.hash and self._being_replaced:
            await self._observe()
            await self._disk.run(partial(self._folder.remove_run_folders, (spec.hash,)))

    async def _observe(self) -> list[EnvoyContainer]:
        """Return this node's Envoy containers, and update the attributes."""
        labelled = await self._engine.call(partial(container.find_containers, node_uid=self._uid))
        containers = [envoy for envoy in labelled if await self._engine.admit(envoy.container) is not None]
        copies = {envoy.name for envoy in labelled} - {envoy.name for envoy in containers}
        # Containers that concern no environment: others with a name of Envoy's.
        takers = {known.name for known in self._engine.cache.foreign_of("") if known.takes_name}
        self._foreign = _foreign_sentence(sorted(copies | takers))
        running = [envoy for envoy in containers if envoy.running]
        desired_hash = ""
        if self._desired is not None:
            with suppress(EngineError):
                name, instance = image.image_name(self._desired.image), self._instance or ""
                desired_hash = self._desired.spec(self._folder, name, instance).hash
        fallback = running[0] if running else None
        current = next((envoy for envoy in running if envoy.hash == desired_hash), fallback)
        before = (self.observed, self.running, self._being_replaced)
        self.observed = True
        self.running, self._id = (current.hash, current.id) if current is not None else ("", "")
        self._being_replaced = {
            envoy.hash: envoy.admin_folder(self._folder.path) for envoy in running if envoy.hash != self.running
        }
        if (self.observed, self.running, self._being_replaced) != before:
            self._changed()
        return containers

    async def _start(self, spec: EnvoySpec, stopped: EnvoyContainer | None, desired_image: str) -> None:
        loop = asyncio.get_running_loop()

        def progress(sentence: str) -> None:
            # RuntimeError: the loop has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._set_problem, sentence)

        await self._engine.pull(partial(image.ensure_image, image=desired_image, progress=progress))
        await self._disk.run(partial(self._prepare, spec))
        created = stopped or await create_container(self._engine, spec.name, spec.body)
        await self._engine.call(partial(container.start, container=created.id), about=created.id)
        _log.info("Envoy started", name=spec.name, image=spec.image)

    def _prepare(self, spec: EnvoySpec) -> None:
        """Create the folders of a container. Blocks; raises OSError."""
        self._folder.create()
        self._folder.create_run_folder(spec.hash, spec.bootstrap)
        self._folder.note_mounted(spec.instance, spec.hash)

    async def _retire(self, replaced: EnvoyContainer) -> None:
        """Drain a replaced Envoy, then remove the container.

        It waits for the end of connections, not of requests alone: a connection without a request can get one at any
        moment. A draining Envoy makes clients close theirs after a response.
        """
        admin = AdminClient(replaced.admin_folder(self._folder.path))
        await self._disk.run(let_connections_migrate)
        with suppress(AdminUnavailable, TimeoutError):
            async with asyncio.timeout(container.DRAIN_SECONDS):
                await admin.drain()
                while replaced.running and await admin.open_connections():  # noqa: ASYNC110 - Envoy sends no event
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await self._engine.stop(partial(container.remove, container=replaced.id), about=replaced.id)
        self._engine.owned.forget(replaced.id)
        _log.info("replaced Envoy removed", name=replaced.name)

    def _set_problem(self, problem: str, *, failed: bool = False) -> None:
        if (problem, failed) != (self.problem, self.failed):
            self.problem, self.failed = problem, failed
            self._changed()


def _foreign_sentence(names: Sequence[str]) -> str:
    if not names:
        return ""
    return (
        f"container {', '.join(names)} carries the labels or the name of this node's Envoy, but was not created by the "
        f"agent, and is left alone (docker rm -f {names[0]})"
    )
