"""What is told about a rollout: the difference between what was recorded and what is recorded now. Pure.

Told in the transaction that records it: once, whoever leads.
"""

from __future__ import annotations

from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model import events
from devopsellence.controller.model.snapshot import Moment
from devopsellence.controller.rollout.task import sentence

_TASK_EVENTS: Final[dict[int, str]] = {
    pb.TaskStatus.RUNNING: events.RELEASE_TASK_STARTED,
    pb.TaskStatus.SUCCEEDED: events.RELEASE_TASK_SUCCEEDED,
    pb.TaskStatus.FAILED: events.RELEASE_TASK_FAILED,
}
_Phase = pb.Rollout
_ERROR = pb.Event.ERROR


def tell(previous: pb.Rollout | None, rollout: pb.Rollout, now: Moment, *, is_back: bool) -> list[pb.Event]:
    """The events of ``rollout``, where ``previous`` was recorded (None: nothing that can be read).

    ``is_back``: all that answers runs the older target again.
    """
    known = previous if previous is not None and previous.release == rollout.release else None
    told = [_started(previous, rollout, now)] if known is None else []
    told += _about_task(known, rollout, now)
    told += _about_turn(known, rollout, now)
    before = known.phase if known is not None else _Phase.PROGRESSING
    if rollout.phase != before:
        told += _about_phase(rollout, now, is_back=is_back)
    return told


def _started(previous: pb.Rollout | None, rollout: pb.Rollout, now: Moment) -> pb.Event:
    before = f" after release {previous.release}" if previous is not None and previous.release else ""
    return _event(rollout, now, events.ROLLOUT_STARTED, f"release {rollout.release} is rolled out{before}")


def _about_task(known: pb.Rollout | None, rollout: pb.Rollout, now: Moment) -> list[pb.Event]:
    task, before = rollout.task, known.task.phase if known is not None else pb.TaskStatus.PHASE_UNSPECIFIED
    if task.phase == before or task.phase not in _TASK_EVENTS:
        return []
    severity = _ERROR if task.phase == pb.TaskStatus.FAILED else pb.Event.INFO
    code = _TASK_EVENTS[task.phase]
    return [
        events.event(now.wall, code, sentence(task), severity=severity, node=task.node, release=rollout.release),
    ]


def _about_turn(known: pb.Rollout | None, rollout: pb.Rollout, now: Moment) -> list[pb.Event]:
    number, target = rollout.release, rollout.target
    before = known.target or number if known is not None else number
    if target not in (number, before):
        message = f"release {number} goes back to release {target}: {rollout.halted}"
        return [_event(rollout, now, events.ROLLOUT_ROLLING_BACK, message, _ERROR)]
    if rollout.halted and target == number and not (known is not None and known.halted):
        message = f"release {number} is not rolled out any further: {rollout.halted}"
        return [_event(rollout, now, events.ROLLOUT_HALTED, message, _ERROR)]
    return []


def _about_phase(rollout: pb.Rollout, now: Moment, *, is_back: bool) -> list[pb.Event]:
    number = rollout.release
    if rollout.phase == _Phase.SETTLED:
        message = f"release {number} has settled" + (f", but {rollout.reason}" if rollout.reason else "")
        return [_event(rollout, now, events.ROLLOUT_SETTLED, message)]
    if rollout.phase == _Phase.FAILED:
        back = f"release {rollout.target} runs again, after release {number} has failed"
        told = [_event(rollout, now, events.ROLLOUT_ROLLED_BACK, back)] if is_back else []
        message = f"release {number} has failed: {rollout.reason}"
        return [*told, _event(rollout, now, events.ROLLOUT_FAILED, message, _ERROR)]
    if rollout.phase == _Phase.PROGRESSING:
        message = f"release {number} is rolled out again, because what the nodes should run has changed"
        return [_event(rollout, now, events.ROLLOUT_STARTED, message)]
    return []


def _event(
    rollout: pb.Rollout,
    now: Moment,
    code: str,
    message: str,
    severity: pb.Event.Severity.ValueType = pb.Event.INFO,
) -> pb.Event:
    return events.event(now.wall, code, message, severity=severity, release=rollout.release)
