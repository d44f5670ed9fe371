"""Calls of the service ``Agent``: authentication, lookup of the target and dispatch, shared by all connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import structlog

from devopsellence.access.roles import Action
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
from devopsellence.nodeagent.api.audit import AuditedCall, AuditSink, CallAudit, audited_call
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.diagnose import Diagnosis
from devopsellence.nodeagent.api.exec import ContainerExec
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.logs import LogTail
from devopsellence.nodeagent.api.rights import CallRights
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
        rights: CallRights,
        audit: AuditSink,
    ) -> None:
        self._node = node
        self._engine = engine
        self._assignments = assignments
        self._decrypter = decrypter
        self._images = images
        self._diagnosis = diagnosis
        self._archive = archive
        self._rights = rights
        #: Audit of the calls, also of those that are refused before they get here.
        self.audit = CallAudit(audit, self._known_values)
        self._archive_threads = ThreadPool(1, "log-archive")
        self._decrypt_threads = ThreadPool(1, "decrypt")
        #: Tasks that end abandoned commands.
        self._ending: set[asyncio.Task[None]] = set()
        #: Calls in progress, which may still leave a command behind.
        self._calls: set[asyncio.Event] = set()

    async def Logs(self, request: LogsRequest, context: _Context) -> None:  # noqa: N802 - the call's name
        await self._serve(context, "Logs", lambda call: self._logs(call, request, context.write))

    async def Exec(self, requests: AsyncIterator[RunRequest], context: _Context) -> None:  # noqa: N802
        await self._serve(context, "Exec", lambda call: self._exec(call, requests, context.write))

    async def RunTask(self, requests: AsyncIterator[RunRequest], context: _Context) -> None:  # noqa: N802
        await self._serve(context, "RunTask", lambda call: self._run_task(call, requests, context.write))

    async def Diagnose(self, _: DiagnoseRequest, context: _Context) -> DiagnoseAnswer:  # noqa: N802
        return await self._serve(context, "Diagnose", self._diagnose)

    async def FindImages(self, request: FindImagesRequest, context: _Context) -> FindImagesAnswer:  # noqa: N802
        return await self._serve_image(context, "FindImages", "look for images", lambda: self._images.find(request))

    async def SendLayer(  # noqa: N802
        self, requests: AsyncIterator[SendLayerRequest], context: _Context
    ) -> SendLayerAnswer:
        return await self._serve_image(
            context, "SendLayer", "send a layer of an image", lambda: self._images.send_layer(requests)
        )

    async def LoadImage(self, request: LoadImageRequest, context: _Context) -> LoadImageAnswer:  # noqa: N802
        async def load(call: AuditedCall) -> LoadImageAnswer:
            call.about(f"load the image {request.tag or request.image.id}")
            async with self._rights.during(call.certificate, Action.SEND_IMAGES):
                await self.audit.began(call)
                return await self._images.load(request)

        return await self._serve(context, "LoadImage", load)

    async def close(self, seconds: float) -> None:
        """Wait for abandoned commands to end, at most ``seconds``. The server must be stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for call in list(self._calls):
                    await call.wait()
                if self._ending:
                    await asyncio.wait(self._ending)

    async def _serve_image(self, context: _Context, method: str, summary: str, work: Callable[[], Awaitable[T]]) -> T:
        async def permitted(call: AuditedCall) -> T:
            call.about(summary)
            # An image belongs to no environment.
            async with self._rights.during(call.certificate, Action.SEND_IMAGES):
                return await work()

        return await self._serve(context, method, permitted)

    async def _serve(self, context: _Context, method: str, work: Callable[[AuditedCall], Awaitable[T]]) -> T:
        """Run ``work`` for an operator; any error becomes a refusal."""
        ended = asyncio.Event()
        self._calls.add(ended)
        identities = context.auth_context()
        call = audited_call(identities, context.peer(), method)
        try:
            name = auth.operator_name(identities)
            _log.info("API call", call=method, caller=name, peer=context.peer())
            return await work(call)
        except Exception as error:  # noqa: BLE001 - reported to the caller; bugs are logged
            refused = auth.refusal_of(error)
            if refused.code is _Code.INTERNAL:
                _log.exception("internal error in a call", call=method)
            await self.audit.refused(call, refused)
            await auth.abort(context, self._node, refused)
        finally:
            self._calls.discard(ended)
            ended.set()

    async def _known_values(self, path: str, service: str) -> list[str]:
        """Return the values of a service's secrets on this node."""
        try:
            desired = self._assignments.get(EnvironmentRef.parse(path)).desired
        except ValueError:
            return []
        if desired is None:
            return []
        return await self._decrypt_threads.run(lambda: self._decrypter.known_values(desired, service))

    async def _diagnose(self, call: AuditedCall) -> DiagnoseAnswer:
        call.about("diagnose the node")
        async with self._rights.during(call.certificate, Action.DIAGNOSE):
            await self.audit.began(call)
            return await self._diagnosis.answer(lambda paths: self._rights.visible(call.certificate, paths))

    async def _logs(
        self, call: AuditedCall, request: LogsRequest, answer: Callable[[LogsAnswer], Awaitable[None]]
    ) -> None:
        whose = ", ".join(request.services) or (f"task {request.task}" if request.task else "all services")
        call.about(f"read the logs of {whose} in {request.environment}", request.environment, request.services)
        async with self._environment(call, Action.READ_LOGS, request.environment) as (ref, desired, containers):
            await self.audit.began(call)
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

    async def _exec(self, call: AuditedCall, requests: Requests, answer: Answer) -> None:
        start = await first_request(requests, "command")
        service, words = start.command.service, start.command.command
        call.about(f"exec in {service} of {start.environment}", start.environment, [service], words)
        async with self._environment(call, Action.EXECUTE, start.environment) as (ref, desired, containers):
            if not 0 < len(words) <= _MAX_ARGUMENTS:
                raise CallRefused(_Code.INVALID_ARGUMENT, f"a command must have 1 to {_MAX_ARGUMENTS} arguments")
            targets.check_services(ref, self._node, [service], targets.services(desired, containers))
            execution = ContainerExec(self._engine, targets.running(desired, containers, service, self._node).id)
            async with self.audit.during(call):
                try:
                    await execution.run(start, requests, call.noting_exit(answer))
                finally:
                    self._end_in_background(execution.abandon())

    async def _run_task(self, call: AuditedCall, requests: Requests, answer: Answer) -> None:
        start = await first_request(requests, "task")
        task = start.task
        summary = f"run task {task.name} in {task.service} of {start.environment}"
        call.about(summary, start.environment, [task.service], (*task.command, *task.args))
        async with self._environment(call, Action.EXECUTE, start.environment) as (ref, desired, _):
            try:
                check_name("task", task.name)
            except InvalidName as error:
                raise CallRefused(_Code.INVALID_ARGUMENT, str(error)) from error
            known = desired.services if desired is not None else ()
            targets.check_services(ref, self._node, [task.service], known)
            async with self.audit.during(call):
                await self._run_one_off(desired, start, requests, call.noting_exit(answer))

    async def _run_one_off(self, desired: Desired | None, start: RunStart, requests: Requests, answer: Answer) -> None:
        if desired is None:
            raise CallRefused(_Code.NOT_FOUND, f"environment {start.environment} is not assigned to node {self._node}")
        one_off = OneOffTask(self._engine, self._decrypter, self._decrypt_threads)
        try:
            await one_off.run(desired, desired.services[start.task.service], start, requests, answer)
        finally:
            self._end_in_background(one_off.abandon())

    @asynccontextmanager
    async def _environment(
        self, call: AuditedCall, action: Action, path: str
    ) -> AsyncIterator[tuple[EnvironmentRef, Desired | None, tuple[Container, ...]]]:
        """Permit the block to the caller, with an environment, its desired state, and its containers on this node."""
        ref, caller = targets.parsed(path), call.certificate
        async with self._rights.during(caller, action, path):
            known = {str(environment) for environment in self._assignments.environments}
            here = self._rights.visible(caller, known | self._engine.cache.environments)
            targets.check_environment(self._node, path, here)
            containers, _ = self._engine.cache.of(path, "")
            yield ref, self._assignments.get(ref).desired, containers

    def _end_in_background(self, ending: Coroutine[Any, Any, None]) -> None:
        """End a command independently of its call, which may be cancelled."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _is_present(short_id: str, containers: Iterable[Container]) -> bool:
    """Return True for the output of a container whose removal has not happened after all."""
    return any(container.id.startswith(short_id) for container in containers)
