"""What is known for certain of the run of a release's task, and kept on disk: so that it is never run twice. Pure.

A :class:`TaskRun` only moves forward: about to be started (from here on it counts as started, whatever happens), then
ended. It is on disk before the engine is asked to start the container, and it outlives the container.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, ContainerExit

#: So many runs of an environment are remembered.
KEPT_RUNS: Final = 50
OUTCOME_UNKNOWN: Final = "its outcome is not known"
#: Names a run: release, task, hash.
TaskRunKey: TypeAlias = tuple[int, str, str]
_Phase = stored_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class TaskRun:
    """The one run of a task for a release.

    ``container``: the one that was about to be started when this was written; empty if none ever was. ``reason``: why
    it failed, empty if it did not. ``end`` is absent where it could not be started or its end is not known.
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
        """How it stands, as far as this tells: WAITING if it was not started."""
        if self.ended:
            return _Phase.FAILED if self.reason else _Phase.SUCCEEDED
        return _Phase.RUNNING if self.container else _Phase.WAITING

    def starting(self, container: str) -> TaskRun:
        """The engine is about to be asked to start ``container``, or was seen to have done so."""
        return self if self.ended else replace(self, container=container)

    def not_started(self) -> TaskRun:
        """The engine answered that it did not start the container, and why is nothing that lasts."""
        return self if self.ended else replace(self, container="")

    def finished(self, container: Container, end: ContainerExit) -> TaskRun:
        """``container`` has ended by itself."""
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
        """It cannot be run, or nobody knows how it ended."""
        return self if self.ended else replace(self, ended=True, reason=reason)


def with_run(runs: Iterable[TaskRun], changed: TaskRun) -> tuple[TaskRun, ...]:
    """``runs`` with ``changed`` in place of what was known of it, the last changed last, as many as are remembered."""
    return (*(each for each in runs if each.key != changed.key), changed)[-KEPT_RUNS:]


def task_run_to_json(run: TaskRun) -> dict[str, Any]:
    """As plain JSON."""
    return dataclasses.asdict(run)


def task_run_from_json(stored: Mapping[str, Any]) -> TaskRun:
    """From JSON. KeyError, TypeError or ValueError if it is none; what a later version added is ignored."""
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
    return "was killed for want of memory" if end.oom_killed else f"ended with exit code {end.code}"
