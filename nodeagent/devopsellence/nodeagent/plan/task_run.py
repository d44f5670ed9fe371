"""Record of the run of a release task, kept on disk so that a task never runs twice.

A :class:`TaskRun` only moves forward: about to be started (from here on it counts as started, whatever happens), then
ended. The record is on disk before the request to the engine to start the container, and outlives the container.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from devopsellence.api.v1 import stored_pb2
from devopsellence.exits import describe_end
from devopsellence.nodeagent.docker.model import Container, ContainerExit

#: Number of runs kept per environment.
KEPT_RUNS: Final = 50
OUTCOME_UNKNOWN: Final = "its outcome is not known"
#: Key of a run: release, task, hash.
TaskRunKey: TypeAlias = tuple[int, str, str]
_Phase = stored_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class TaskRun:
    """The only run of a task for a release.

    ``container``: container (id) about to be started when this was written; empty before. ``reason``: why the task
    failed; empty if it did not. ``end`` is None if the task could not be started or its outcome is unknown.
    """

    release: int
    task: str
    hash: str
    container: str = ""
    ended: bool = False
    reason: str = ""
    end: ContainerExit | None = None
    started_at: str = ""

    @property
    def key(self) -> TaskRunKey:
        return self.release, self.task, self.hash

    @property
    def phase(self) -> stored_pb2.TaskStatus.Phase.ValueType:
        """Phase according to the record: WAITING if not started."""
        if self.ended:
            return _Phase.FAILED if self.reason else _Phase.SUCCEEDED
        return _Phase.RUNNING if self.container else _Phase.WAITING

    def starting(self, container: str) -> TaskRun:
        """Note a start of ``container`` about to be requested, or seen."""
        return self if self.ended else replace(self, container=container)

    def not_started(self) -> TaskRun:
        """Note the engine's answer that the container was not started, for a reason that may pass."""
        return self if self.ended else replace(self, container="")

    def finished(self, container: Container, end: ContainerExit) -> TaskRun:
        """Note that ``container`` exited by itself."""
        if self.ended:
            return self
        return replace(
            self,
            container=container.id,
            ended=True,
            reason=_why(end),
            end=end,
            started_at=container.started_at,
        )

    def failed(self, reason: str) -> TaskRun:
        """Note that the task cannot be run, or that its outcome is unknown."""
        return self if self.ended else replace(self, ended=True, reason=reason)


def with_run(runs: Iterable[TaskRun], changed: TaskRun) -> tuple[TaskRun, ...]:
    """Return ``runs`` with ``changed`` in place of the record of its key, as the newest; the oldest are dropped."""
    return (*(run for run in runs if run.key != changed.key), changed)[-KEPT_RUNS:]


def task_run_to_json(run: TaskRun) -> dict[str, Any]:
    """Return a run as plain JSON."""
    return dataclasses.asdict(run)


def task_run_from_json(stored: Mapping[str, Any]) -> TaskRun:
    """Return a run from JSON; fields of later versions are ignored.

    Raises:
        KeyError, TypeError, ValueError: the JSON is no run.
    """
    known = {field.name for field in dataclasses.fields(TaskRun)}
    values = {key: value for key, value in stored.items() if key in known}
    end = values.get("end")
    return TaskRun(**{**values, "end": ContainerExit(**{**end, "log_lines": tuple(end["log_lines"])}) if end else None})


def exit_of(end: ContainerExit) -> stored_pb2.Exit:
    """Return the exit of a container as a message for a status."""
    result = stored_pb2.Exit(code=end.code, oom_killed=end.oom_killed, log_lines=end.log_lines)
    if end.finished_at:
        result.finished_at.FromJsonString(end.finished_at)
    return result


def _why(end: ContainerExit) -> str:
    if end.code == 0:
        return ""
    return describe_end(end.code, oom_killed=end.oom_killed)
