"""The loop: a queue of environments, and for each of them observe, plan, act.

Whatever happens (an assignment, an event of the engine, a check, an action's end, a time that has come) puts an
environment on the queue and nothing else; what is to be done is decided from the whole state when its turn comes. All
of this lives on the event loop, so there are no locks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker.errors import EngineUnavailable
from devopsellence.nodeagent.docker.interface import ContainerEngine, Machine
from devopsellence.nodeagent.docker.model import ContainerState, Observed
from devopsellence.nodeagent.health.monitor import HealthMonitor
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.ingress.facade import IngressFacade
from devopsellence.nodeagent.ingress.routing import must_report_now
from devopsellence.nodeagent.plan.actions import NEEDS_NETWORK, TASK, Action, ActionKind, EnvironmentPlan
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import RestartHistory
from devopsellence.nodeagent.plan.spec import Desired, specs_with_new_peers
from devopsellence.nodeagent.plan.task import plan_task
from devopsellence.nodeagent.reconcile.executor import Actions, before
from devopsellence.nodeagent.reconcile.history_store import Remembered
from devopsellence.nodeagent.reconcile.slots import Lane, Lanes, lane_of
from devopsellence.nodeagent.reconcile.task_store import Runs
from devopsellence.nodeagent.secrets import Vault, resealed
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.status import build
from devopsellence.nodeagent.status.writer import StatusWriter
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.errors import StoreError
from devopsellence.store.keys import EnvironmentRef

#: After an error of the agent itself, the service that it happened to is left alone for so long.
AFTER_BUG_SECONDS: Final = 5.0
#: At a clean end, calls in hand are waited for at most so long. Stops are not: the engine finishes those by itself.
STOP_SECONDS: Final = 10.0
#: Before an old container is stopped, the status that no longer names it is waited for so long.
TELL_SECONDS: Final = 0.5
_log = structlog.get_logger()


def clock() -> Now:
    """This moment."""
    return Now(time.monotonic(), time.time())


@dataclass(slots=True)
class _Environment:
    """What is known of one environment besides what the engine and etcd hold."""

    remembered: Remembered
    runs: Runs
    #: Actions under way, by service; the network's is at "", the release task's at TASK.
    busy: dict[str, Action] = field(default_factory=dict)
    #: How far a pull is, by service.
    progress: dict[str, str] = field(default_factory=dict)
    want: Desired | None = None
    plan: EnvironmentPlan = field(default_factory=EnvironmentPlan)
    #: How its ingress fares; None: it has none.
    ingress: stored_pb2.IngressStatus | None = None
    problem: str = ""
    timer: asyncio.TimerHandle | None = None


class Reconciler:
    """Converges the engine to the assignments. ``run`` does so until cancelled; then call :meth:`close`."""

    def __init__(
        self,
        node: str,
        node_uid: str,
        machine: Machine[ContainerEngine],
        assignments: Assignments,
        statuses: StatusWriter,
        folder: StateFolder,
        disk: ThreadPool,
        vault: Vault,
        garbage: ImageCollector,
        ingress: IngressFacade,
    ) -> None:
        self._node = node
        self._uid = node_uid
        engine = self._engine = machine.engine
        self._assignments = assignments
        self._statuses = statuses
        self._folder = folder
        self._disk = disk
        self._garbage = garbage
        self._ingress = ingress
        self._actions = Actions(engine, clock, vault, machine.fetch)
        self._monitor = HealthMonitor(machine.ask, self._changed, clock)
        self._environments: dict[EnvironmentRef, _Environment] = {}
        self._queue: dict[EnvironmentRef, None] = {}
        self._wake = asyncio.Event()
        self._lanes = Lanes()
        self._unassigned: set[str] = set()
        self._tasks: dict[asyncio.Task[None], Action | None] = {}

    def enqueue(self, env: EnvironmentRef) -> None:
        """Look at an environment again, soon."""
        self._queue[env] = None
        self._wake.set()

    def changed(self, env: str) -> None:
        """The engine has something new about an environment (by its path)."""
        self._changed(env)

    def everything(self) -> None:
        """Look at everything again."""
        for env in self._assignments.environments:
            self.enqueue(env)
        for path in self._engine.cache.environments:
            self._changed(path)

    def image_arrived(self) -> None:
        """An image has come to this machine: whoever waits for one tries at once."""
        for env, state in self._environments.items():
            if state.remembered.hurry():
                self.enqueue(env)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self.everything()
        while True:
            await self._wake.wait()
            self._wake.clear()
            # One turn each, in order of arrival; what comes meanwhile has the next.
            queue, self._queue = self._queue, {}
            for env in queue:
                await self._isolated(env)

    async def close(self) -> None:
        """Finish the calls in hand; containers go on as they are."""
        self._end_watch()
        calls = [task for task, action in self._tasks.items() if action is None or lane_of(action) is Lane.CALL]
        if calls:
            await asyncio.wait(calls, timeout=STOP_SECONDS)

    def abandon(self) -> None:
        """Begin nothing more and wait for nothing; what the engine was asked for it finishes by itself."""
        self._end_watch()
        for task in list(self._tasks):
            task.cancel()

    def _end_watch(self) -> None:
        self._monitor.close()
        for state in self._environments.values():
            if state.timer is not None:
                state.timer.cancel()

    async def _isolated(self, env: EnvironmentRef) -> None:
        """Reconcile; an error of the agent itself stays with the environment that it happened to."""
        try:
            await self._reconcile(env)
        except Exception:  # noqa: BLE001 - it is logged with its traceback
            _log.exception("an environment could not be reconciled", env=str(env))
            asyncio.get_running_loop().call_later(AFTER_BUG_SECONDS, self.enqueue, env)

    async def _reconcile(self, env: EnvironmentRef) -> None:
        assigned = self._assignments.look(env)
        state = self._environments.get(env)
        if state is None:
            memories = await self._disk.run(lambda: self._folder.memories(env, clock()))
            runs = await Runs.load(env, self._folder, self._disk)
            state = _Environment(Remembered(env, self._folder, self._disk, memories), runs)
            self._environments[env] = state
        for key in resealed(state.want, assigned.want):
            state.remembered.change(key, RestartHistory.hurry)
        for key in specs_with_new_peers(state.want, assigned.want):
            state.remembered.change(key, RestartHistory.offered)
        state.want, state.problem = assigned.want, assigned.problem
        if assigned.foreign:
            _log.warning("an assignment is for another machine", env=str(env), uid=assigned.foreign, ours=self._uid)
            self._statuses.forget(env)
        if assigned.want is None:
            self._ingress.unassigned(env)
            self._not_assigned(env, assigned.problem)
            return
        if not self._engine.connected:
            if state.plan.services:
                # Certificates and challenges may be others.
                self._route(state, assigned.want)
            return
        before, told = state.plan, state.ingress
        self._converge(env, state, assigned.want, saved=assigned.saved)
        if not assigned.foreign:
            moved = build.task_phase_changed(before, state.plan) or must_report_now(told, state.ingress)
            now = build.is_stable(state.plan) or moved
            self._statuses.report(env, lambda: self._status(env), now=now)
        self._garbage.follow(assigned.want, settled=build.is_stable(state.plan))
        if state.plan.removed and assigned.absent:
            await self._forget(env)

    def _converge(self, env: EnvironmentRef, state: _Environment, want: Desired, *, saved: bool) -> None:
        """Observe, plan, act."""
        containers, network = self._engine.cache.of(str(env), want.network)
        checks = [
            (container, wanted.probes)
            for container in containers
            if container.state is ContainerState.RUNNING
            and (wanted := want.services.get(container.service))
            and container.hash == wanted.hash
            and wanted.probes
        ]
        self._monitor.watch(str(env), want.network, checks)
        seen = Observed(containers, network, self._monitor.of(str(env)), self._ingress.held(env))
        memories, runs, now = state.remembered.memories, state.runs, clock()
        planned = plan(want, seen, memories, now)
        task = plan_task(want, seen, planned.services, runs.known, memories, now, problem=runs.problem)
        state.plan = replace(planned, task=task)
        self._route(state, want)
        if state.remembered.note_proved(state.plan.services):
            self.enqueue(env)
        state.remembered.prune(want, containers, state.busy)
        for action in self._next(env, state, seen):
            # Nothing is taken away, and no task run, for an assignment that would be forgotten if the agent were killed
            # now.
            if saved or (
                action.service != TASK
                and action.kind not in (ActionKind.STOP, ActionKind.REMOVE, ActionKind.REMOVE_NETWORK)
            ):
                self._start(env, state, action, want)
        self._schedule(env, state)
        if state.remembered.unsaved:
            self._spawn(state.remembered.save(), None)

    def _route(self, state: _Environment, want: Desired) -> None:
        """Before anything is stopped: requests are to go elsewhere first."""
        state.ingress = self._ingress.follow(want, state.plan.services, state.busy.values())

    def _next(self, env: EnvironmentRef, state: _Environment, seen: Observed) -> list[Action]:
        """The first action of each service that is not busy, as far as there are slots."""
        services = (service.actions[:1] for service in state.plan.services)
        firsts = [state.plan.network[:1], state.plan.task.actions[:1], *services]
        ready = (
            action
            for action in (first[0] for first in firsts if first)
            if action.service not in state.busy and (action.kind not in NEEDS_NETWORK or seen.network is not None)
        )
        return self._lanes.choose(env, ready)

    def _start(self, env: EnvironmentRef, state: _Environment, action: Action, want: Desired) -> None:
        container = self._engine.cache.containers.get(action.container)
        if container is not None:
            state.remembered.change((action.service, action.hash), before(action, container, want, clock()))
        state.busy[action.service] = action
        self._lanes.enter(action)
        self._spawn(self._carry_out(env, state, action, want), action)

    async def _carry_out(self, env: EnvironmentRef, state: _Environment, action: Action, want: Desired) -> None:
        log = _log.bind(env=str(env), service=action.service, action=action.kind.value, name=action.name)
        began = time.monotonic()
        loop = asyncio.get_running_loop()

        def progress(sentence: str) -> None:
            loop.call_soon_threadsafe(self._progress, env, state, action.service, sentence)

        try:
            if action.kind is ActionKind.STOP and (action.lapsed or not _is_served_by(state.plan, action.container)):
                await self._tell(env)
            result = await self._actions.carry_out(action, want, progress, state.runs)
        except EngineUnavailable as error:
            log.warning("the engine did not answer", error=str(error))
        except Exception:
            log.exception("an action failed in the agent itself")
            await asyncio.sleep(AFTER_BUG_SECONDS)
        else:
            memory = state.remembered.change(result.key, result.change)
            if action.kind is ActionKind.PULL and not memory.trouble:
                self._garbage.image_pulled(action, want)
            log.info("action", reason=action.reason, trouble=memory.reason, seconds=round(time.monotonic() - began, 3))
        finally:
            state.busy.pop(action.service, None)
            state.progress.pop(action.service, None)
            for each in (env, *self._lanes.leave(action)):
                self.enqueue(each)

    async def _tell(self, env: EnvironmentRef) -> None:
        """Name the container that serves from now on, or what is wrong with the one that does, before it is stopped;
        without etcd, do not wait for it."""
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(TELL_SECONDS):
                await self._statuses.write(env)

    def _progress(self, env: EnvironmentRef, state: _Environment, service: str, sentence: str) -> None:
        state.progress[service] = sentence
        self.enqueue(env)

    def _schedule(self, env: EnvironmentRef, state: _Environment) -> None:
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        wake = state.plan.wake
        if wake is not None:
            state.timer = asyncio.get_running_loop().call_at(wake, self.enqueue, env)

    def _status(self, env: EnvironmentRef) -> stored_pb2.AssignmentStatus:
        state = self._environments[env]
        if state.want is None:
            return build.unreadable(self._node, self._uid, env, state.problem)
        memories, progress = state.remembered.memories, state.progress
        return build.status(state.want, state.plan, memories, progress, state.problem, state.ingress)

    def _not_assigned(self, env: EnvironmentRef, problem: str) -> None:
        if problem:
            self._statuses.report(env, lambda: self._status(env), now=True)
        elif str(env) in self._engine.cache.environments:
            self._leave_alone(str(env))

    def _leave_alone(self, path: str) -> None:
        if path not in self._unassigned:
            self._unassigned.add(path)
            _log.warning("containers of an environment of which no assignment is known are left alone", env=path)

    async def _forget(self, env: EnvironmentRef) -> None:
        _log.info("the environment has left this node", env=str(env))
        self._statuses.forget(env)
        self._ingress.forget(env)
        self._environments.pop(env, None)
        self._garbage.environment_removed(str(env))
        await self._assignments.forget(env)

    def _changed(self, path: str) -> None:
        try:
            self.enqueue(EnvironmentRef.parse(path))
        except ValueError:
            self._leave_alone(path)

    def _spawn(self, work: Coroutine[Any, Any, None], action: Action | None) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = action
        task.add_done_callback(self._tasks.pop)


def _is_served_by(planned: EnvironmentPlan, container: str) -> bool:
    return any(service.current is not None and service.current.id == container for service in planned.services)
