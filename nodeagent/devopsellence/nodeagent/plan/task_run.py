"""What is known for certain of the run of a release's task, and kept on disk: so that it is never run twice. Pure.

A :class:`Run` only moves forward: about to be started (from here on it counts as started, whatever happens), then
ended. It is on disk before the engine is asked to start the container, and it outlives the container.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Container, End

#: So many runs of an environment are remembered.
REMEMBERED: Final = 50
UNKNOWN: Final = "its outcome is not known"
#: Names a run: release, task, hash.
RunKey: TypeAlias = tuple[int, str, str]
_Phase = stored_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class Run:
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
    end: End | None = None
    started_at: str = ""

    @property
    def key(self) -> RunKey:
        return self.release, self.task, self.hash

    @property
    def phase(self) -> stored_pb2.TaskStatus.Phase.ValueType:
        """How it stands, as far as this tells: WAITING if it was not started."""
        if self.ended:
            return _Phase.FAILED if self.reason else _Phase.SUCCEEDED
        return _Phase.RUNNING if self.container else _Phase.WAITING

    def starting(self, container: str) -> Run:
        """The engine is about to be asked to start ``container``, or was seen to have done so."""
        return self if self.ended else replace(self, container=container)

    def not_started(self) -> Run:
        """The engine answered that it did not start the container, and why is nothing that lasts."""
        return self if self.ended else replace(self, container="")

    def finished(self, container: Container, end: End) -> Run:
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

    def failed(self, reason: str) -> Run:
        """It cannot be run, or nobody knows how it ended."""
        return self if self.ended else replace(self, ended=True, reason=reason)


def newest(runs: Iterable[Run], changed: Run) -> tuple[Run, ...]:
    """``runs`` with ``changed`` in place of what was known of it, the last changed last, as many as are remembered."""
    return (*(each for each in runs if each.key != changed.key), changed)[-REMEMBERED:]


def run_to(run: Run) -> dict[str, Any]:
    """As plain JSON."""
    return dataclasses.asdict(run)


def run_from(stored: Mapping[str, Any]) -> Run:
    """From JSON. KeyError, TypeError or ValueError if it is none; what a later version added is ignored."""
    known = {field.name for field in dataclasses.fields(Run)}
    values = {key: value for key, value in stored.items() if key in known}
    end = values.get("end")
    return Run(**{**values, "end": End(**{**end, "log_lines": tuple(end["log_lines"])}) if end else None})


def _why(end: End) -> str:
    if end.code == 0:
        return ""
    return "was killed for want of memory" if end.oom_killed else f"ended with exit code {end.code}"
