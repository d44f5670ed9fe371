"""Events of a rollout: the difference between the stored Rollout and the Rollout to store. Pure.

Events are written in the transaction that writes the Rollout, so exactly once, also across a change of leader.
"""

from __future__ import annotations

from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.model import events
from devopsellence.controller.rollout.task import describe_task

_TASK_EVENTS: Final[dict[int, str]] = {
    pb.TaskStatus.RUNNING: events.RELEASE_TASK_STARTED,
    pb.TaskStatus.SUCCEEDED: events.RELEASE_TASK_SUCCEEDED,
    pb.TaskStatus.FAILED: events.RELEASE_TASK_FAILED,
}
_Phase = pb.Rollout
_ERROR = pb.Event.ERROR
_LOST: Final = (pb.NodeProgress.UNREACHABLE, pb.NodeProgress.ERROR)


def rollout_events(
    previous: pb.Rollout | None, rollout: pb.Rollout, now: Now, *, is_rolled_back: bool
) -> list[pb.Event]:
    """Return the events of ``rollout`` after ``previous``, the stored Rollout (None: absent or unreadable).

    ``is_rolled_back``: all reachable nodes run the older release again.
    """
    known = previous if previous is not None and previous.release == rollout.release else None
    result = [_started(previous, rollout, now)] if known is None else []
    result += _task_events(known, rollout, now)
    result += _node_events(previous, rollout, now)
    result += _direction_events(known, rollout, now)
    before = known.phase if known is not None else _Phase.PROGRESSING
    if rollout.phase != before:
        result += _phase_events(rollout, now, is_rolled_back=is_rolled_back)
    return result


def _started(previous: pb.Rollout | None, rollout: pb.Rollout, now: Now) -> pb.Event:
    before = f" after release {previous.release}" if previous is not None and previous.release else ""
    return _event(rollout, now, events.ROLLOUT_STARTED, f"release {rollout.release} is rolled out{before}")


def _task_events(known: pb.Rollout | None, rollout: pb.Rollout, now: Now) -> list[pb.Event]:
    task, before = rollout.task, known.task.phase if known is not None else pb.TaskStatus.PHASE_UNSPECIFIED
    if task.phase == before or task.phase not in _TASK_EVENTS:
        return []
    severity = _ERROR if task.phase == pb.TaskStatus.FAILED else pb.Event.INFO
    code = _TASK_EVENTS[task.phase]
    return [
        events.new_event(
            now.utc, code, describe_task(task), severity=severity, node=task.node, release=rollout.release
        ),
    ]


def _direction_events(known: pb.Rollout | None, rollout: pb.Rollout, now: Now) -> list[pb.Event]:
    number, target = rollout.release, rollout.target
    before = known.target or number if known is not None else number
    if target not in (number, before):
        message = f"release {number} rolls back to release {target}: {rollout.halted}"
        return [_with_output(_event(rollout, now, events.ROLLOUT_ROLLING_BACK, message, _ERROR), rollout)]
    if rollout.halted and target == number and not (known is not None and known.halted):
        message = f"release {number} is not rolled out any further: {rollout.halted}"
        return [_with_output(_event(rollout, now, events.ROLLOUT_HALTED, message, _ERROR), rollout)]
    return []


def _phase_events(rollout: pb.Rollout, now: Now, *, is_rolled_back: bool) -> list[pb.Event]:
    number = rollout.release
    if rollout.phase == _Phase.SETTLED:
        message = f"release {number} has settled" + (f", but {rollout.reason}" if rollout.reason else "")
        return [_event(rollout, now, events.ROLLOUT_SETTLED, message)]
    if rollout.phase == _Phase.FAILED:
        back = f"release {rollout.target} runs again, after release {number} has failed"
        rolled_back = [_event(rollout, now, events.ROLLOUT_ROLLED_BACK, back)] if is_rolled_back else []
        message = f"release {number} has failed: {rollout.reason}"
        return [*rolled_back, _with_output(_event(rollout, now, events.ROLLOUT_FAILED, message, _ERROR), rollout)]
    if rollout.phase == _Phase.PROGRESSING:
        message = f"release {number} is rolled out again, because what the nodes should run has changed"
        return [_event(rollout, now, events.ROLLOUT_STARTED, message)]
    return []


def _node_events(previous: pb.Rollout | None, rollout: pb.Rollout, now: Now) -> list[pb.Event]:
    """Return the events about nodes that cannot be reached or read, or can again. A node that is no longer listed, of
    more than a hundred, is not known to be well again."""
    before = {node.node: node.phase for node in previous.nodes} if previous is not None else {}
    lost = [node for node in rollout.nodes if node.phase in _LOST and before.get(node.node) not in _LOST]
    back = [node for node in rollout.nodes if node.phase not in _LOST and before.get(node.node) in _LOST]
    decisions = [(events.NODE_LOST, node.reason, node.node) for node in lost]
    decisions += [(events.NODE_BACK, "takes part again", node.node) for node in back]
    return events.about_nodes(now.utc, decisions, release=rollout.release, warn=[node.reason for node in lost])


def _with_output(event: pb.Event, rollout: pb.Rollout) -> pb.Event:
    """Return the event with the last output of the first service that made the release fail."""
    if rollout.failures:
        failure = rollout.failures[0]
        event.node, event.service = failure.node, failure.service
        event.log_lines.extend(failure.log_lines)
    return event


def _event(
    rollout: pb.Rollout,
    now: Now,
    code: str,
    message: str,
    severity: pb.Event.Severity.ValueType = pb.Event.INFO,
) -> pb.Event:
    return events.new_event(now.utc, code, message, severity=severity, release=rollout.release)
