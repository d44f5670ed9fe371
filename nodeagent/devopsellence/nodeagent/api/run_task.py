"""Task run by an operator, outside a release: a container beside the services, removed when the task ends.

The container belongs to the call: when the caller goes, the container is stopped and removed, if need be by the next
agent.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from functools import partial
from typing import Final

import grpc
import structlog

from devopsellence.api.v1.agent_pb2 import RunAnswer, RunStart, RunStarted, WindowSize
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.session import Answer, Requests, converse, signal_named
from devopsellence.nodeagent.docker import errors, names, streams
from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.creation import create_container, mounted_volumes
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.pipe import ProcessPipe
from devopsellence.nodeagent.plan.container_config import configured_volumes, task_container_config
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.secrets import SecretDecrypter, SecretError
from devopsellence.nodeagent.util.threads import ThreadPool

#: Exit codes of a shell for a command not executable or not found; the engine uses the same.
_NOT_STARTED: Final = (126, 127)
_Code = grpc.StatusCode
_log = structlog.get_logger()


class OneOffTask:
    """A single run of a task. Call :meth:`run`, then :meth:`abandon` in case ``run`` was cut short."""

    def __init__(self, engine: DockerEngine, decrypter: SecretDecrypter, decrypt_threads: ThreadPool) -> None:
        self.container = ""
        self._engine = engine
        self._decrypter = decrypter
        self._decrypt_threads = decrypt_threads
        self._creating: asyncio.Future[str] | None = None
        self._ended = False

    async def run(
        self, desired: Desired, desired_service: DesiredService, start: RunStart, requests: Requests, answer: Answer
    ) -> None:
        """Run the task to its end, remove the container, and answer with the exit code."""
        if desired_service.problem:
            raise CallRefused(
                _Code.FAILED_PRECONDITION, f"{desired_service.spec.name} cannot run here: {desired_service.problem}"
            )
        self._creating = asyncio.ensure_future(self._create(desired, desired_service, start))
        # A cancellation leaves the creation undecided; abandon() waits for the outcome.
        self.container = await asyncio.shield(self._creating)
        connection = await self._engine.ask(
            lambda docker: streams.attach(docker, self.container, stdin=start.interactive), about=self.container
        )
        pipe = ProcessPipe(connection, tty=start.tty)
        try:
            if await self._started(answer):
                await converse(self, pipe, start, requests, answer)
                code = await self._engine.ask(lambda docker: streams.wait(docker, self.container))
            else:
                code = await self._engine.ask(lambda docker: streams.exit_code(docker, self.container))
        finally:
            pipe.close()
        await self._discard()
        await answer(RunAnswer(exit_code=code))

    async def abandon(self) -> None:
        """Stop and remove the container, unless removed."""
        if self._creating is None or self._ended:
            return
        try:
            self.container = await self._creating
            with suppress(errors.NotFound):
                await self._engine.stop(lambda docker: docker.stop(self.container), about=self.container)
            await self._discard()
        except CallRefused:
            # Never created, as already reported to the caller.
            return
        except errors.EngineError as error:
            _log.warning("cannot remove the container of a task", container=self.container, error=str(error))

    async def started(self) -> bool:
        """Return True: output is only read after the start."""
        return True

    async def resize(self, size: WindowSize) -> None:
        """Resize the terminal; a missing terminal is ignored."""
        with suppress(errors.EngineError):
            await self._engine.ask(
                lambda docker: streams.resize(docker, self.container, size.columns, size.rows), about=self.container
            )

    async def signal(self, name: str) -> None:
        """Send a signal to the container's first process; ignored after its exit."""
        number = signal_named(name)
        with suppress(errors.Conflict, errors.NotFound):
            await self._engine.ask(
                lambda docker: streams.kill(docker, self.container, number.name), about=self.container
            )

    async def _create(self, desired: Desired, desired_service: DesiredService, start: RunStart) -> str:
        task = start.task
        try:
            secrets = await self._decrypt_threads.run(lambda: self._decrypter.environ(desired, desired_service.spec))
        except SecretError as error:
            raise CallRefused(_Code.FAILED_PRECONDITION, str(error)) from error
        service = (desired.node_uid, desired_service.spec.name, desired_service.image)
        configured = configured_volumes(desired_service.spec, desired)
        try:
            volumes = await mounted_volumes(self._engine, desired.ref, service, configured, self._engine.ask)
            body = task_container_config(
                desired_service,
                desired,
                task,
                secrets,
                one_off=True,
                interactive=start.interactive,
                tty=start.tty,
                volumes=volumes,
            )
            name = names.one_off_prefix(desired.ref, task.name) + uuid.uuid4().hex[:10]
            return (await create_container(self._engine, name, lambda: body, call=self._engine.ask)).id
        except errors.ImageNotAvailable as error:
            message = f"the image of {desired_service.spec.name} is not on this node yet: {error}"
            raise CallRefused(_Code.FAILED_PRECONDITION, message) from error

    async def _started(self, answer: Answer) -> bool:
        """Start the container; False, with the engine's message as stderr, if the image lacks the command."""
        try:
            await self._engine.ask(lambda docker: docker.start(self.container), about=self.container)
        except errors.EngineRefused as error:
            code = await self._engine.ask(lambda docker: streams.exit_code(docker, self.container))
            if code not in _NOT_STARTED:
                raise CallRefused(_Code.FAILED_PRECONDITION, f"the task cannot be started: {error}") from error
            await answer(RunAnswer(started=RunStarted(container=self.container[:12])))
            await answer(RunAnswer(stderr=f"{error}\n".encode()))
            return False
        return True

    async def _discard(self) -> None:
        await self._engine.ask(lambda docker: streams.discard(docker, self.container), about=self.container)
        self._engine.owned.forget(self.container)
        self._ended = True


async def discard_leftovers(engine: DockerEngine) -> None:
    """Remove one-off containers of an earlier agent, whose callers are gone."""
    for container in [known.id for known in engine.cache.containers.values() if known.one_off]:
        _log.info("removing the container of an abandoned task", container=container)
        with suppress(errors.NotFound):
            await engine.stop(partial(_stop, container=container), about=container)
        await engine.ask(partial(streams.discard, container=container), about=container)
        engine.owned.forget(container)


def _stop(docker: DockerClient, container: str) -> None:
    docker.stop(container)
