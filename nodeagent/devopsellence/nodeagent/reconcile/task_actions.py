"""The actions that only a release's task has: each changes its record, and none can start it a second time."""

from __future__ import annotations

import structlog

from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.docker.model import ContainerState
from devopsellence.nodeagent.plan.actions import Action
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.plan.task_run import OUTCOME_UNKNOWN, TaskRunKey
from devopsellence.nodeagent.reconcile.task_store import Runs

_log = structlog.get_logger()


async def start(engine: ContainerEngine, action: Action, want: Desired, runs: Runs) -> None:
    """Start the task's container, once.

    It is recorded as started before the engine is asked, so an answer that is lost (with the agent or with the engine)
    leaves a container that is only looked at from then on. An answer that it was not started is believed, and final:
    what does not run now, such as a command that does not exist, does not run later.

    Raises:
        EngineUnavailable, StateError.
        NetworkGone: it was not started, and may be.
    """
    run = runs.of(_assigned(action, want))
    await runs.keep(run.starting(action.container))
    try:
        seen = await engine.call(lambda docker: docker.start(action.container))
    except errors.NetworkGone:
        await runs.keep(run.not_started())
        await engine.relist()
        raise
    except errors.NotFound:
        # Removed by somebody, before it was started or a moment after.
        engine.cache.remove(action.container)
        await runs.keep(run.failed(f"its container was removed as it was started, so {OUTCOME_UNKNOWN}"))
    except errors.HalfStarted:
        await runs.keep(run.failed(f"the engine was gone while its container was being started, so {OUTCOME_UNKNOWN}"))
    except (errors.EngineRefused, errors.DiskFull) as error:
        await runs.keep(run.failed(f"its container cannot be started: {error}"))
    else:
        if seen is not None:
            engine.cache.put(seen)


async def examine(engine: ContainerEngine, action: Action, _want: Desired, runs: Runs) -> None:
    """Find out what became of a container that was started, or that no record tells of.

    The engine's answer is a fresh one: a start that is still under way when the question arrives is waited for by it.
    """
    started = runs.started_in(action.container)
    try:
        seen, end = await engine.call(lambda docker: docker.inspect_exited(action.container))
    except errors.NotFound:
        engine.cache.remove(action.container)
        if started is not None:
            await runs.keep(started.failed(f"its container was removed before its end was seen, so {OUTCOME_UNKNOWN}"))
        return
    if seen.state is ContainerState.CREATED:
        if started is not None:
            reason = f"the agent or the engine was gone while it was being started, so {OUTCOME_UNKNOWN}"
            await runs.keep(started.failed(reason))
        return
    before = runs.of((seen.release, seen.task, seen.hash))
    run = before.finished(seen, end) if end is not None else before.starting(seen.id)
    await runs.keep(run)
    engine.cache.put(seen)
    if run.ended:
        _log.info("a release task has ended", env=seen.env, task=run.task, release=run.release, failure=run.reason)


async def give_up(_engine: ContainerEngine, action: Action, want: Desired, runs: Runs) -> None:
    """Keep on record that it cannot be run."""
    await runs.keep(runs.of(_assigned(action, want)).failed(action.reason))


def _assigned(action: Action, want: Desired) -> TaskRunKey:
    return want.release, want.task.name if want.task is not None else "", action.hash
