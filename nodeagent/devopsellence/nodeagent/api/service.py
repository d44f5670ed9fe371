"""Calls of the service ``Agent``: authentication, lookup of the target and dispatch, shared by all connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import structlog

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
from devopsellence.nodeagent.api import auth, past_logs, targets
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
from devopsellence.nodeagent.log_archive import LogArchive
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef, InvalidName, check_name

T = TypeVar("T")
_Context = grpc.aio.ServicerContext[Any, Any]
_Code = grpc.StatusCode
#: Upper limit of a command's arguments; an empty command is refused as well.
_MAX_ARGUMENTS: Final = 10_000
_log = structlog.get_logger()


class AgentService:
    """Implements the service ``Agent`` of ``agent.proto``, with its method names."""

    def __init__(
        self,
        node: str,
        engine: DockerEngine,
        assignments: Assignments,
        decrypter: SecretDecrypter,
        images: ImageService,
        diagnosis: Diagnosis,
        archive: LogArchive,
    ) -> None:
        self._node = node
        self._engine = engine
        self._assignments = assignments
        self._decrypter = decrypter
        self._images = images
        self._diagnosis = diagnosis
        self._archive = archive
        self._archive_threads = ThreadPool(1, "log-archive")
        self._decrypt_threads = ThreadPool(1, "decrypt")
        #: Tasks that end abandoned commands.
        self._ending: set[asyncio.Task[None]] = set()
        #: Calls in progress, which may still leave a command behind.
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
        """Wait for abandoned commands to end, at most ``seconds``. The server must be stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for call in list(self._calls):
                    await call.wait()
                if self._ending:
                    await asyncio.wait(self._ending)

    async def _serve(self, context: _Context, call: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` for an operator; any error becomes a refusal."""
        ended = asyncio.Event()
        self._calls.add(ended)
        try:
            caller = auth.operator_name(context.auth_context())
            _log.info("API call", call=call, caller=caller, peer=context.peer())
            return await work()
        except Exception as error:  # noqa: BLE001 - reported to the caller; bugs are logged
            refused = auth.refusal_of(error)
            if refused.code is _Code.INTERNAL:
                _log.exception("internal error in a call", call=call)
            await auth.abort(context, self._node, refused)
        finally:
            self._calls.discard(ended)
            ended.set()

    async def _logs(self, request: LogsRequest, answer: Callable[[LogsAnswer], Awaitable[None]]) -> None:
        ref, desired, containers = self._environment(request.environment)
        if past_logs.is_about_past(request):
            await self._past_logs(ref, containers, request, answer)
            return
        targets.check_services(ref, self._node, request.services, targets.services(desired, containers))
        await LogTail(self._engine, str(ref), request, answer).run()

    async def _past_logs(
        self,
        ref: EnvironmentRef,
        containers: Sequence[Container],
        request: LogsRequest,
        answer: Callable[[LogsAnswer], Awaitable[None]],
    ) -> None:
        """Send the output of containers chosen by release or task, first of those that are gone.

        Unlike without such a choice, a service without output is no error: another node may have it.
        """
        kept = await self._archive_threads.run(lambda: self._archive.of(ref))
        if request.task and not request.release:
            request.release = past_logs.newest_run(kept, containers, request.task)
        present = past_logs.choose_present(containers, request)
        gone = [log for log in past_logs.choose_archived(kept, request) if not _is_present(log.container, present)]
        await past_logs.send_archived(gone, request, answer, self._archive_threads)
        if present:
            ids = frozenset(container.id for container in present)
            await LogTail(self._engine, str(ref), request, answer, only=ids).run()

    async def _exec(self, requests: Requests, answer: Answer) -> None:
        start = await first_request(requests, "command")
        ref, desired, containers = self._environment(start.environment)
        if not 0 < len(start.command.command) <= _MAX_ARGUMENTS:
            raise CallRefused(_Code.INVALID_ARGUMENT, f"a command must have 1 to {_MAX_ARGUMENTS} arguments")
        service = start.command.service
        targets.check_services(ref, self._node, [service], targets.services(desired, containers))
        execution = ContainerExec(self._engine, targets.running(desired, containers, service, self._node).id)
        try:
            await execution.run(start, requests, answer)
        finally:
            self._end_in_background(execution.abandon())

    async def _run_task(self, requests: Requests, answer: Answer) -> None:
        start = await first_request(requests, "task")
        ref, desired, _ = self._environment(start.environment)
        try:
            check_name("task", start.task.name)
        except InvalidName as error:
            raise CallRefused(_Code.INVALID_ARGUMENT, str(error)) from error
        targets.check_services(ref, self._node, [start.task.service], desired.services if desired is not None else ())
        await self._run_one_off(desired, start, requests, answer)

    async def _run_one_off(self, desired: Desired | None, start: RunStart, requests: Requests, answer: Answer) -> None:
        if desired is None:
            raise CallRefused(_Code.NOT_FOUND, f"environment {start.environment} is not assigned to node {self._node}")
        one_off = OneOffTask(self._engine, self._decrypter, self._decrypt_threads)
        try:
            await one_off.run(desired, desired.services[start.task.service], start, requests, answer)
        finally:
            self._end_in_background(one_off.abandon())

    def _environment(self, path: str) -> tuple[EnvironmentRef, Desired | None, tuple[Container, ...]]:
        """Return an environment, its desired state, and its containers on this node."""
        known = {str(environment) for environment in self._assignments.environments} | self._engine.cache.environments
        ref = targets.environment(self._node, path, known)
        containers, _ = self._engine.cache.of(str(ref), "")
        return ref, self._assignments.get(ref).desired, containers

    def _end_in_background(self, ending: Coroutine[Any, Any, None]) -> None:
        """End a command independently of its call, which may be cancelled."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _is_present(short_id: str, containers: Iterable[Container]) -> bool:
    """Return True for the output of a container whose removal has not happened after all."""
    return any(container.id.startswith(short_id) for container in containers)
