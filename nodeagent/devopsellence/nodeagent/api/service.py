"""The calls of the API: who may, what about, and whose work it is. One instance serves every call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import structlog

from devopsellence.agent_identity import TAKEN_BY
from devopsellence.api.v1.agent_pb2 import (
    DiagnoseAnswer,
    DiagnoseRequest,
    FindImagesAnswer,
    FindImagesRequest,
    LoadImageAnswer,
    LoadImageRequest,
    LogsAnswer,
    LogsRequest,
    RunRequest,
    RunStart,
    SendLayerAnswer,
    SendLayerRequest,
)
from devopsellence.nodeagent.api import auth, targets
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.diagnose import Diagnosis
from devopsellence.nodeagent.api.exec import ContainerExec
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.logs import LogTail
from devopsellence.nodeagent.api.run_task import OneOffTask
from devopsellence.nodeagent.api.session import Answer, Requests, first_request
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.secrets import Vault
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef, InvalidName, check_name

T = TypeVar("T")
_Context = grpc.aio.ServicerContext[Any, Any]
_Code = grpc.StatusCode
#: An empty command would be the engine's error; a very long one is not meant.
_MAX_ARGUMENTS: Final = 10_000
_log = structlog.get_logger()


class AgentService:
    """Answers the calls of ``agent.proto``, whose names its methods have."""

    def __init__(
        self,
        node: str,
        engine: DockerEngine,
        assignments: Assignments,
        vault: Vault,
        images: ImageService,
        diagnosis: Diagnosis,
    ) -> None:
        self._node = node
        self._engine = engine
        self._assignments = assignments
        self._vault = vault
        self._images = images
        self._diagnosis = diagnosis
        self._unsealing = ThreadPool(1, "unseal")
        #: Ending what a caller has left behind.
        self._ending: set[asyncio.Task[None]] = set()
        #: Calls that go on: until one has ended, it is not known what it leaves behind.
        self._calls: set[asyncio.Event] = set()

    async def Logs(self, request: LogsRequest, context: _Context) -> None:  # noqa: N802 - the call's name
        await self._serve(context, "Logs", lambda: self._logs(request, context.write))

    async def Exec(self, requests: AsyncIterator[RunRequest], context: _Context) -> None:  # noqa: N802
        await self._serve(context, "Exec", lambda: self._exec(requests, context.write))

    async def RunTask(self, requests: AsyncIterator[RunRequest], context: _Context) -> None:  # noqa: N802
        await self._serve(context, "RunTask", lambda: self._run_task(requests, context.write))

    async def Diagnose(self, _: DiagnoseRequest, context: _Context) -> DiagnoseAnswer:  # noqa: N802
        return await self._serve(context, "Diagnose", self._diagnosis.answer)

    async def FindImages(self, request: FindImagesRequest, context: _Context) -> FindImagesAnswer:  # noqa: N802
        return await self._serve(context, "FindImages", lambda: self._images.find(request))

    async def SendLayer(  # noqa: N802
        self, requests: AsyncIterator[SendLayerRequest], context: _Context
    ) -> SendLayerAnswer:
        return await self._serve(context, "SendLayer", lambda: self._images.send_layer(requests))

    async def LoadImage(self, request: LoadImageRequest, context: _Context) -> LoadImageAnswer:  # noqa: N802
        return await self._serve(context, "LoadImage", lambda: self._images.load(request))

    async def close(self, seconds: float) -> None:
        """Wait for what is being ended, but not for longer. The server must have been stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for call in list(self._calls):
                    await call.wait()
                if self._ending:
                    await asyncio.wait(self._ending)

    async def _serve(self, context: _Context, call: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work for an operator; every other end is a refusal."""
        ended = asyncio.Event()
        self._calls.add(ended)
        try:
            caller = auth.operator_name(context.auth_context())
            _log.info("called", call=call, caller=caller, peer=context.peer())
            # At once: until it has come the caller does not know that anybody is there, and the answer may take long.
            await context.send_initial_metadata(((TAKEN_BY, self._node),))
            return await work()
        except Exception as error:  # noqa: BLE001 - the caller is told, and what is a bug is logged
            why = auth.refusal_of(error)
            if why.code is _Code.INTERNAL:
                _log.exception("a call failed in the agent itself", call=call)
            await auth.abort(context, self._node, why)
        finally:
            self._calls.discard(ended)
            ended.set()

    async def _logs(self, request: LogsRequest, answer: Callable[[LogsAnswer], Awaitable[None]]) -> None:
        env, want, containers = self._environment(request.environment)
        targets.check_services(env, self._node, request.services, targets.services(want, containers))
        await LogTail(self._engine, str(env), request, answer).run()

    async def _exec(self, requests: Requests, answer: Answer) -> None:
        start = await first_request(requests, "command")
        env, want, containers = self._environment(start.environment)
        if not 0 < len(start.command.command) <= _MAX_ARGUMENTS:
            raise CallRefused(_Code.INVALID_ARGUMENT, "there is no command to run")
        service = start.command.service
        targets.check_services(env, self._node, [service], targets.services(want, containers))
        execution = ContainerExec(self._engine, targets.running(want, containers, service, self._node).id)
        try:
            await execution.run(start, requests, answer)
        finally:
            self._end(execution.abandon())

    async def _run_task(self, requests: Requests, answer: Answer) -> None:
        start = await first_request(requests, "task")
        env, want, _ = self._environment(start.environment)
        try:
            check_name("task", start.task.name)
        except InvalidName as error:
            raise CallRefused(_Code.INVALID_ARGUMENT, str(error)) from error
        targets.check_services(env, self._node, [start.task.service], want.services if want is not None else ())
        await self._run_one_off(want, start, requests, answer)

    async def _run_one_off(self, want: Desired | None, start: RunStart, requests: Requests, answer: Answer) -> None:
        if want is None:
            raise CallRefused(_Code.NOT_FOUND, f"nothing of {start.environment} is assigned to node {self._node}")
        one_off = OneOffTask(self._engine, self._vault, self._unsealing)
        try:
            await one_off.run(want, want.services[start.task.service], start, requests, answer)
        finally:
            self._end(one_off.abandon())

    def _environment(self, named: str) -> tuple[EnvironmentRef, Desired | None, tuple[Container, ...]]:
        """What is assigned of an environment, and its containers here."""
        known = {str(environment) for environment in self._assignments.environments} | self._engine.cache.environments
        env = targets.environment(self._node, named, known)
        containers, _ = self._engine.cache.of(str(env), "")
        return env, self._assignments.look(env).want, containers

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        """Apart from the call, which may have been cancelled."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
