"""Actions on the container of a release task, and their records: the container is started once, whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.docker.model import ContainerState
from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.plan.task_run import OUTCOME_UNKNOWN, TaskRunKey
from devopsellence.nodeagent.reconcile.task_store import TaskStore

_log = structlog.get_logger()


async def _start(engine: ContainerEngine, action: Action, desired: Desired, tasks: TaskStore) -> None:
    """Start the container of a release task, once.

    The start is on record before the request to the engine. If the answer is lost (with the agent or the engine),
    the container is only examined from then on. An answer that the container was not started is final: a command
    that does not exist now does not exist later.

    Raises:
        EngineUnavailable, StateError.
        NetworkGone: not started, and may be started later.
    """
    run = tasks.get(_run_key(action, desired))
    await tasks.save(run.starting(action.container))
    asked = engine.cache.stamp()
    try:
        container = await engine.call(lambda docker: docker.start(action.container), about=action.container)
    except errors.NetworkGone:
        await tasks.save(run.not_started())
        await engine.relist()
        raise
    except errors.NotFound:
        # Removed by somebody, before the start or a moment after.
        engine.cache.remove(action.container)
        await tasks.save(run.failed(f"its container was removed as it was started, so {OUTCOME_UNKNOWN}"))
    except errors.HalfStarted:
        reason = f"the engine was gone while its container was being started, so {OUTCOME_UNKNOWN}"
        await tasks.save(run.failed(reason))
    except (errors.EngineRefused, errors.DiskFull) as error:
        await tasks.save(run.failed(f"its container cannot be started: {error}"))
    else:
        if container is not None:
            engine.cache.put(container, asked)


async def _examine(engine: ContainerEngine, action: Action, _desired: Desired, tasks: TaskStore) -> None:
    """Record the end of a task's container: one recorded as started, or one without a record.

    The engine answers after a start in progress, so the answer is up to date.
    """
    started = tasks.started_in(action.container)
    asked = engine.cache.stamp()
    try:
        container, end = await engine.call(
            lambda docker: docker.inspect_exited(action.container), about=action.container
        )
    except errors.NotFound:
        engine.cache.remove(action.container)
        if started is not None:
            reason = f"its container was removed before its end was seen, so {OUTCOME_UNKNOWN}"
            await tasks.save(started.failed(reason))
        return
    if container.state is ContainerState.CREATED:
        if started is not None:
            reason = f"the agent or the engine was gone while it was being started, so {OUTCOME_UNKNOWN}"
            await tasks.save(started.failed(reason))
        return
    before = tasks.get((container.release, container.task, container.hash))
    run = before.finished(container, end) if end is not None else before.starting(container.id)
    await tasks.save(run)
    engine.cache.put(container, asked)
    if run.ended:
        _log.info(
            "a release task has ended",
            env=container.environment,
            task=run.task,
            release=run.release,
            failure=run.reason,
        )


async def _give_up(_engine: ContainerEngine, action: Action, desired: Desired, tasks: TaskStore) -> None:
    """Record that a task cannot be run."""
    await tasks.save(tasks.get(_run_key(action, desired)).failed(action.reason))


def _run_key(action: Action, desired: Desired) -> TaskRunKey:
    return desired.release, desired.task.name if desired.task is not None else "", action.hash


#: Function for each kind of action that differs for release tasks; raises EngineError and StateError.
TASK_ACTIONS: Final[dict[ActionKind, Callable[[ContainerEngine, Action, Desired, TaskStore], Awaitable[None]]]] = {
    ActionKind.START: _start,
    ActionKind.EXAMINE: _examine,
    ActionKind.GIVE_UP: _give_up,
}
