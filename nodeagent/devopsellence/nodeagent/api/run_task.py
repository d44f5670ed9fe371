"""A task that an operator runs by hand: a container of its own beside the services, gone when the task has ended.

It belongs to the call: when the caller goes the container is stopped and removed, by the next agent if need be.
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
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.pipe import ProcessPipe
from devopsellence.nodeagent.plan.container_config import task_container_config
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.secrets import SecretError, Vault
from devopsellence.nodeagent.util.threads import ThreadPool

#: What a shell answers for a command that is not there or is none; also when the engine says so.
_NOT_STARTED: Final = (126, 127)
_Code = grpc.StatusCode
_log = structlog.get_logger()


class OneOffTask:
    """One run of a task. ``run`` it; ``abandon`` it if that was cut short."""

    def __init__(self, engine: DockerEngine, vault: Vault, unsealing: ThreadPool) -> None:
        self.container = ""
        self._engine = engine
        self._vault = vault
        self._unsealing = unsealing
        self._creating: asyncio.Future[str] | None = None
        self._ended = False

    async def run(self, want: Desired, wanted: DesiredService, start: RunStart, requests: Requests, answer: Answer) -> None:
        """Run it to its end, remove it, and answer with its exit code."""
        if wanted.obstacle:
            raise CallRefused(_Code.FAILED_PRECONDITION, f"{wanted.service.name} cannot run here: {wanted.obstacle}")
        self._creating = asyncio.ensure_future(self._create(want, wanted, start))
        # Whoever cancels this does not learn whether it was created; abandoning it waits until that is known.
        self.container = await asyncio.shield(self._creating)
        connection = await self._engine.ask(
            lambda docker: streams.attach(docker, self.container, stdin=start.interactive)
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
        """Stop and remove its container, unless it is gone."""
        if self._creating is None or self._ended:
            return
        try:
            self.container = await self._creating
            with suppress(errors.NotFound):
                await self._engine.stop(lambda docker: docker.stop(self.container))
            await self._discard()
        except CallRefused:
            # It was never created, and the caller has been told.
            return
        except errors.EngineError as error:
            _log.warning("a task's container could not be removed", container=self.container, error=str(error))

    async def started(self) -> bool:
        """It is only listened to once it has been started."""
        return True

    async def resize(self, size: WindowSize) -> None:
        """Tell its terminal; a terminal that is not there (any more) needs no telling."""
        with suppress(errors.EngineError):
            await self._engine.ask(lambda docker: streams.resize(docker, self.container, size.columns, size.rows))

    async def signal(self, name: str) -> None:
        """Send its first process a signal; nothing if it has ended."""
        wanted = signal_named(name)
        with suppress(errors.Conflict, errors.NotFound):
            await self._engine.ask(lambda docker: streams.kill(docker, self.container, wanted.name))

    async def _create(self, want: Desired, wanted: DesiredService, start: RunStart) -> str:
        task = start.task
        try:
            secrets = await self._unsealing.run(lambda: self._vault.environ(want, wanted.service))
        except SecretError as error:
            raise CallRefused(_Code.FAILED_PRECONDITION, str(error)) from error
        body = task_container_config(wanted, want, task, secrets, one_off=True, interactive=start.interactive, tty=start.tty)
        name = f"{want.env.project}-{want.env.environment}-run-{task.name}-{uuid.uuid4().hex[:10]}".lower()
        try:
            return await self._engine.ask(lambda docker: docker.create(name, body))
        except errors.ImageNotAvailable as error:
            sentence = f"the image of {wanted.service.name} is not on this node yet: {error}"
            raise CallRefused(_Code.FAILED_PRECONDITION, sentence) from error

    async def _started(self, answer: Answer) -> bool:
        """Start it; False, with the engine's words answered, if there is no such command in its image."""
        try:
            await self._engine.ask(lambda docker: docker.start(self.container))
        except errors.EngineRefused as error:
            code = await self._engine.ask(lambda docker: streams.exit_code(docker, self.container))
            if code not in _NOT_STARTED:
                raise CallRefused(_Code.FAILED_PRECONDITION, f"the task cannot be started: {error}") from error
            await answer(RunAnswer(started=RunStarted(container=self.container[:12])))
            await answer(RunAnswer(stderr=f"{error}\n".encode()))
            return False
        return True

    async def _discard(self) -> None:
        await self._engine.ask(lambda docker: streams.discard(docker, self.container))
        self._ended = True


async def discard_leftovers(engine: DockerEngine, node_uid: str) -> None:
    """End what was run by hand through an agent before this one: nobody can be listening any more."""
    for container in await engine.ask(lambda docker: streams.one_offs(docker, node_uid)):
        _log.info("a task that was run by hand was left behind", container=container)
        with suppress(errors.NotFound):
            await engine.stop(partial(_stop, container=container))
        await engine.ask(partial(streams.discard, container=container))


def _stop(docker: DockerClient, container: str) -> None:
    docker.stop(container)
