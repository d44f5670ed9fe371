"""Output of containers that are gone, from the node's archive, and the choice of containers by release or task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import LogLine, LogsAnswer, LogsRequest
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.logs import MESSAGE_BYTES
from devopsellence.nodeagent.docker.frames import LogText
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.log_archive import ArchivedLog
from devopsellence.nodeagent.util.threads import ThreadPool

_LINE_OVERHEAD: Final = 200


def is_about_past(request: LogsRequest) -> bool:
    """Return True if a request asks for containers that may be gone.

    Raises:
        CallRefused: INVALID_ARGUMENT: it also asks to follow them.
    """
    past = bool(request.previous or request.release or request.task)
    if past and request.follow:
        raise CallRefused(
            grpc.StatusCode.INVALID_ARGUMENT, "the output of earlier containers cannot be followed; leave out follow"
        )
    return past


def choose_archived(kept: Iterable[ArchivedLog], request: LogsRequest) -> list[ArchivedLog]:
    """Return the kept output that a request asks for, oldest first per service. Pure."""
    chosen = [
        log
        for log in kept
        if log.task == request.task
        and (not request.release or log.release == request.release)
        and (not request.services or log.service in request.services)
    ]
    if request.previous:
        chosen = list({log.service: log for log in chosen}.values())
    return sorted(chosen, key=lambda log: (log.service, log.removed_at))


def choose_present(containers: Iterable[Container], request: LogsRequest) -> list[Container]:
    """Return the containers present that a request asks for by release or task. Pure."""
    if request.previous:
        return []
    return [
        container
        for container in containers
        if container.task == request.task
        and not container.one_off
        and (not request.release or container.release == request.release)
    ]


def newest_run(kept: Iterable[ArchivedLog], containers: Iterable[Container], task: str) -> int:
    """Return the release of the newest run of a task on this node; 0 for none. Pure."""
    runs = [log.release for log in kept if log.task == task]
    runs += [container.release for container in containers if container.task == task and not container.one_off]
    return max(runs, default=0)


async def send_archived(
    logs: Sequence[ArchivedLog],
    request: LogsRequest,
    answer: Callable[[LogsAnswer], Awaitable[None]],
    threads: ThreadPool,
) -> None:
    """Send the last lines of each log, in messages of a limited size."""
    since = (request.since.seconds, request.since.nanos)
    for log in logs:
        lines: list[LogText] = []
        # Another removal may have dropped it.
        with suppress(OSError):
            lines = await threads.run(partial(_read, log))
        lines = [line for line in lines if line.at >= since]
        lines = lines if request.lines < 0 else lines[max(0, len(lines) - request.lines) :]
        batch, size = LogsAnswer(), 0
        for line in lines:
            if batch.lines and size + len(line.text) > MESSAGE_BYTES:
                await answer(batch)
                batch, size = LogsAnswer(), 0
            batch.lines.append(_message(log, line))
            size += len(line.text) + _LINE_OVERHEAD
        if batch.lines:
            await answer(batch)


def _read(log: ArchivedLog) -> list[LogText]:
    return list(log.lines())


def _message(log: ArchivedLog, line: LogText) -> LogLine:
    seconds, nanos = line.at
    return LogLine(
        service=log.service,
        container=log.container,
        stderr=line.stderr,
        at=Timestamp(seconds=seconds, nanos=nanos),
        line=line.text,
    )
