"""The reconcile loop: a queue of environments; for each environment observe, plan, act.

Every change (an assignment, an event of the engine, a probe result, the end of an action, a point in time) only puts
an environment on the queue. Decisions are made from the whole state when the environment is next. Everything here runs
on the event loop, so there are no locks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog

from devopsellence import clock
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.assignments import Assignments, UnsavedAssignment
from devopsellence.nodeagent.docker.errors import ContainerHung, EngineUnavailable
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.docker.model import Container, ContainerState, Observed
from devopsellence.nodeagent.health.monitor import HealthMonitor
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.ingress.facade import IngressFacade
from devopsellence.nodeagent.ingress.routing import must_report_now
from devopsellence.nodeagent.log_archive import LogArchive
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.plan.actions import NEEDS_NETWORK, TASK, Action, ActionKind, EnvironmentPlan
from devopsellence.nodeagent.plan.container_config import suggested_volumes, volumes_to_keep
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import RestartHistory
from devopsellence.nodeagent.plan.repeats import RepeatedActions
from devopsellence.nodeagent.plan.spec import Desired, specs_with_new_peers
from devopsellence.nodeagent.plan.task import plan_task
from devopsellence.nodeagent.reconcile.busy import BusyActions
from devopsellence.nodeagent.reconcile.executor import ActionExecutor, change_before
from devopsellence.nodeagent.reconcile.history_store import RestartHistoryStore
from devopsellence.nodeagent.reconcile.machine import Machine
from devopsellence.nodeagent.reconcile.slots import ActionSlots, SlotKind, slot_kind
from devopsellence.nodeagent.reconcile.task_store import TaskStore
from devopsellence.nodeagent.secrets import SecretDecrypter, reencrypted_specs
from devopsellence.nodeagent.status import build
from devopsellence.nodeagent.status.writer import StatusWriter
from devopsellence.store.errors import StoreError
from devopsellence.store.keys import EnvironmentRef

#: Pause before a service or environment is tried again after a bug in the agent.
AFTER_BUG_SECONDS: Final = 5.0
#: Longest wait for calls in progress at a clean end. Stops are not waited for: the engine finishes stops by itself.
STOP_SECONDS: Final = 10.0
#: Longest wait for the status that names the new container, before the old container is stopped.
STATUS_SECONDS: Final = 0.5
_REMOVALS: Final = frozenset({ActionKind.STOP, ActionKind.REMOVE, ActionKind.REMOVE_NETWORK, ActionKind.REMOVE_VOLUME})
_log = structlog.get_logger()


@dataclass(slots=True)
class _Environment:
    """State of one environment beyond that of the engine and etcd."""

    histories: RestartHistoryStore
    tasks: TaskStore
    busy: BusyActions = field(default_factory=BusyActions)
    #: Progress of image pulls by service, as sentences.
    progress: dict[str, str] = field(default_factory=dict)
    desired: Desired | None = None
    plan: EnvironmentPlan = field(default_factory=EnvironmentPlan)
    #: None: the environment has no ingress.
    ingress: stored_pb2.IngressStatus | None = None
    problem: str = ""
    #: The newest assignment, if it cannot be written to disk; ``desired`` is the one in force instead.
    unsaved: UnsavedAssignment | None = None
    repeats: RepeatedActions = field(default_factory=RepeatedActions)
    timer: asyncio.TimerHandle | None = None


class Reconciler:
    """Makes the engine match the assignments. Call :meth:`run`, cancel the call to stop, then call :meth:`close`."""

    def __init__(
        self,
        context: NodeContext,
        machine: Machine[ContainerEngine],
        assignments: Assignments,
        statuses: StatusWriter,
        decrypter: SecretDecrypter,
        images: ImageCollector,
        ingress: IngressFacade,
    ) -> None:
        self._context = context
        self._engine = machine.engine
        self._assignments = assignments
        self._statuses = statuses
        self._images = images
        self._ingress = ingress
        self._archive = LogArchive(context.folder.logs)
        self._executor = ActionExecutor(
            machine.engine, clock.now, decrypter, machine.pull_from_peers, self._keep_output
        )
        self._monitor = HealthMonitor(machine.probe_call, self.changed, clock.now)
        self._environments: dict[EnvironmentRef, _Environment] = {}
        self._queue: dict[EnvironmentRef, None] = {}
        self._wake = asyncio.Event()
        self._slots = ActionSlots()
        self._unassigned: set[str] = set()
        self._acting = True
        self._tasks: dict[asyncio.Task[None], Action | None] = {}

    def set_acting(self, acting: bool) -> None:
        """Stop or begin to act: of two agents with the same uid one acts, or a release task would run twice.

        Actions in progress end, and containers keep running.
        """
        resumed = acting and not self._acting
        self._acting = acting
        if resumed:
            self.everything()

    def enqueue(self, ref: EnvironmentRef) -> None:
        """Reconcile an environment soon."""
        self._queue[ref] = None
        self._wake.set()

    def changed(self, path: str) -> None:
        """Reconcile the environment of this path soon; its containers or probe results changed."""
        try:
            self.enqueue(EnvironmentRef.parse(path))
        except ValueError:
            self._leave_alone(path)

    def everything(self) -> None:
        """Reconcile all environments soon."""
        for ref in self._assignments.environments:
            self.enqueue(ref)
        for path in self._engine.cache.environments:
            self.changed(path)

    def image_arrived(self) -> None:
        """Let services that wait for an image try again at once."""
        for ref, state in self._environments.items():
            if state.histories.image_arrived():
                state.repeats.forget()
                self.enqueue(ref)

    def networks_changed(self) -> None:
        """Let environments that could not get their network try again at once."""
        for ref, state in self._environments.items():
            if state.histories.networks_changed():
                state.repeats.forget()
                self.enqueue(ref)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self.everything()
        while True:
            await self._wake.wait()
            self._wake.clear()
            # In order of arrival; environments enqueued meanwhile come after all of these.
            queue, self._queue = self._queue, {}
            for ref in queue:
                await self._isolated(ref)

    async def close(self) -> None:
        """Finish calls in progress; containers keep running."""
        self._end_watch()
        calls = [task for task, action in self._tasks.items() if action is None or slot_kind(action) is SlotKind.CALL]
        if calls:
            await asyncio.wait(calls, timeout=STOP_SECONDS)

    def abandon(self) -> None:
        """Cancel everything without waiting; the engine finishes requests that it already has."""
        self._end_watch()
        for task in list(self._tasks):
            task.cancel()

    def _end_watch(self) -> None:
        self._monitor.close()
        for state in self._environments.values():
            if state.timer is not None:
                state.timer.cancel()

    async def _isolated(self, ref: EnvironmentRef) -> None:
        """Reconcile one environment; a bug that it meets does not stop the others."""
        try:
            await self._reconcile(ref)
        except Exception:  # noqa: BLE001 - it is logged with its traceback
            _log.exception("an environment could not be reconciled", env=str(ref))
            asyncio.get_running_loop().call_later(AFTER_BUG_SECONDS, self.enqueue, ref)

    async def _reconcile(self, ref: EnvironmentRef) -> None:
        if not self._acting:
            return
        assignment = self._assignments.get(ref)
        state = self._environments.get(ref)
        if state is None:
            state = self._environments[ref] = await self._load(ref)
        for key in reencrypted_specs(state.desired, assignment.desired):
            state.histories.change(key, RestartHistory.retry_now)
        for key in specs_with_new_peers(state.desired, assignment.desired):
            state.histories.change(key, RestartHistory.new_peers)
        if assignment.desired is not state.desired:
            state.repeats.forget()
        state.desired, state.problem = assignment.desired, assignment.problem
        newly_unsaved = assignment.unsaved is not None and assignment.unsaved != state.unsaved
        state.unsaved = assignment.unsaved
        if assignment.foreign_uid:
            uid, own_uid = assignment.foreign_uid, self._context.node_uid
            _log.warning("an assignment is for another machine", env=str(ref), uid=uid, ours=own_uid)
            self._statuses.forget(ref)
        if assignment.desired is None:
            self._ingress.unassigned(ref)
            self._not_assigned(ref, assignment.problem or (assignment.unsaved.problem if assignment.unsaved else ""))
            return
        if not self._engine.connected:
            if state.plan.services:
                # Certificates and challenges may have changed.
                self._route(state, assignment.desired)
            return
        plan_before, ingress_before = state.plan, state.ingress
        self._converge(ref, state, assignment.desired, saved=assignment.saved)
        if not assignment.foreign_uid:
            urgent = (
                build.is_stable(state.plan)
                or bool(state.plan.problem)
                or newly_unsaved
                or build.task_phase_changed(plan_before, state.plan)
                or must_report_now(ingress_before, state.ingress)
            )
            self._statuses.report(ref, lambda: self._status(ref), now=urgent)
        self._images.follow(assignment.desired, settled=build.is_stable(state.plan))
        if state.plan.removed and assignment.deleted:
            await self._forget(ref)

    async def _load(self, ref: EnvironmentRef) -> _Environment:
        folder, disk = self._context.folder, self._context.disk
        histories = await disk.run(lambda: folder.restart_histories(ref, clock.now()))
        tasks = await TaskStore.load(ref, folder, disk)
        return _Environment(RestartHistoryStore(ref, folder, disk, histories), tasks)

    def _converge(self, ref: EnvironmentRef, state: _Environment, desired: Desired, *, saved: bool) -> None:
        """Observe, plan, act."""
        observed = self._observe(ref, desired)
        if not observed.foreign and state.histories.names_released():
            state.repeats.forget()
        histories, tasks, now = state.histories.histories, state.tasks, clock.now()
        planned = plan(desired, observed, histories, now)
        task = plan_task(desired, observed, planned.services, tasks.runs, histories, now, problem=tasks.problem)
        state.plan = state.repeats.hold_back(replace(planned, task=task), observed, now)
        # Before any container is stopped: requests have to go to another container first.
        self._route(state, desired)
        if state.histories.note_ready(state.plan.services):
            self.enqueue(ref)
        state.histories.prune(desired, observed.containers, state.busy.services)
        for action in self._next_actions(ref, state, desired, observed):
            # An assignment not yet on disk is forgotten if the agent is killed now. Until it is saved, nothing is
            # removed and no task is run because of it.
            if saved or (action.service != TASK and action.kind not in _REMOVALS):
                self._start(ref, state, action, desired, observed)
        self._schedule(ref, state)
        if state.histories.unsaved:
            self._spawn(state.histories.save(), None)

    def _observe(self, ref: EnvironmentRef, desired: Desired) -> Observed:
        """Return the state of the engine, and keep probing the running containers of the assigned specs."""
        path = str(ref)
        containers, network = self._engine.cache.of(path, desired.network)
        checks = [
            (container, assigned.probes)
            for container in containers
            if container.state is ContainerState.RUNNING
            and (assigned := desired.services.get(container.service))
            and container.hash == assigned.hash
            and assigned.probes
        ]
        self._monitor.watch(path, desired.network, checks)
        hung = self._engine.hung
        hung_here = {container.id: hung[container.id] for container in containers if container.id in hung}
        owned = self._engine.owned
        # A volume that is configured by now stays after its service.
        configured = volumes_to_keep(desired)
        owned.keep_volumes(configured, suggested_volumes(configured, desired))
        return Observed(
            containers,
            network,
            self._monitor.of(path),
            self._ingress.held(ref),
            hung_here,
            foreign=self._engine.cache.foreign_of(path),
            image_volumes=owned.image_volumes(path),
        )

    def _route(self, state: _Environment, desired: Desired) -> None:
        state.ingress = self._ingress.follow(desired, state.plan.services, state.busy.actions)

    def _next_actions(
        self, ref: EnvironmentRef, state: _Environment, desired: Desired, observed: Observed
    ) -> list[Action]:
        """Return the first action of each service if no action in progress is in its way, as far as slots are free."""
        services = (service.actions[:1] for service in state.plan.services)
        firsts = [state.plan.network[:1], state.plan.task.actions[:1], *services]
        startable = (
            action
            for action in (first[0] for first in firsts if first)
            if state.busy.may_start(action, desired)
            and (action.kind not in NEEDS_NETWORK or observed.network is not None)
        )
        return self._slots.choose(ref, startable)

    def _start(
        self, ref: EnvironmentRef, state: _Environment, action: Action, desired: Desired, observed: Observed
    ) -> None:
        container = self._engine.cache.containers.get(action.container)
        if container is not None:
            change = change_before(action, container, desired, clock.now())
            state.histories.change((action.service, action.hash), change)
        state.busy.add(action, desired)
        self._slots.take(action)
        self._spawn(self._carry_out(ref, state, action, desired, observed), action)

    async def _carry_out(
        self, ref: EnvironmentRef, state: _Environment, action: Action, desired: Desired, observed: Observed
    ) -> None:
        log = _log.bind(env=str(ref), service=action.service, action=action.kind.value, name=action.name)
        started = time.monotonic()
        loop = asyncio.get_running_loop()

        def progress(sentence: str) -> None:
            loop.call_soon_threadsafe(self._progress, ref, state, action.service, sentence)

        try:
            if action.kind is ActionKind.STOP and _needs_status_first(state.plan, action):
                await self._write_status(ref)
            result = await self._executor.carry_out(action, desired, progress, state.tasks)
        except (EngineUnavailable, ContainerHung) as error:
            log.warning("the engine did not answer", error=str(error))
        except Exception:
            log.exception("an action failed in the agent itself")
            state.repeats.ended(action, observed, clock.now())
            await asyncio.sleep(AFTER_BUG_SECONDS)
        else:
            state.repeats.ended(action, observed, clock.now())
            history = state.histories.change(result.key, result.change)
            if action.kind is ActionKind.PULL and not history.failure:
                self._images.image_pulled(action, desired)
            seconds = round(time.monotonic() - started, 3)
            log.info("action", reason=action.reason, trouble=history.reason, seconds=seconds)
        finally:
            state.busy.remove(action)
            state.progress.pop(action.service, None)
            for waiting in (ref, *self._slots.release(action)):
                self.enqueue(waiting)

    async def _write_status(self, ref: EnvironmentRef) -> None:
        """Write the status before a stop: the name of the new container, or why this one is not healthy.

        Without etcd the stop does not wait for the status.
        """
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(STATUS_SECONDS):
                await self._statuses.write(ref)

    def _progress(self, ref: EnvironmentRef, state: _Environment, service: str, sentence: str) -> None:
        state.progress[service] = sentence
        self.enqueue(ref)

    def _schedule(self, ref: EnvironmentRef, state: _Environment) -> None:
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        wake = state.plan.wake
        if wake is not None:
            state.timer = asyncio.get_running_loop().call_at(wake, self.enqueue, ref)

    def _status(self, ref: EnvironmentRef) -> stored_pb2.AssignmentStatus:
        state = self._environments[ref]
        unsaved = state.unsaved
        if state.desired is None:
            if unsaved is not None:
                return build.unsaved(unsaved.desired, unsaved.problem, None, None)
            return build.unreadable(self._context.node, self._context.node_uid, ref, state.problem)
        histories, progress = state.histories.histories, state.progress
        stops = state.busy.stops
        status = build.status(state.desired, state.plan, histories, progress, state.problem, state.ingress, stops)
        status = build.with_folder_problem(status, state.plan, self._context.folder.files.problem)
        if unsaved is not None and not state.problem:
            status = build.unsaved(unsaved.desired, unsaved.problem, state.desired, status)
        return status

    def _not_assigned(self, ref: EnvironmentRef, problem: str) -> None:
        if problem:
            self._statuses.report(ref, lambda: self._status(ref), now=True)
        elif str(ref) in self._engine.cache.environments:
            self._leave_alone(str(ref))

    def _leave_alone(self, path: str) -> None:
        if path not in self._unassigned:
            self._unassigned.add(path)
            _log.warning("containers of an environment without a known assignment are left alone", env=path)

    async def _forget(self, ref: EnvironmentRef) -> None:
        _log.info("the environment has left this node", env=str(ref))
        self._statuses.forget(ref)
        self._ingress.forget(ref)
        self._environments.pop(ref, None)
        self._images.environment_removed(str(ref))
        await self._context.disk.run(partial(self._archive.forget, ref))
        await self._assignments.forget(ref)

    async def _keep_output(self, container: Container, frames: bytes) -> None:
        """Keep the output of a container about to be removed; OSError if the folder cannot be written."""
        removed_at = round(clock.now().wall * 1e9)
        await self._context.disk.run(partial(self._archive.save, container, frames, removed_at))

    def _spawn(self, work: Coroutine[Any, Any, None], action: Action | None) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = action
        task.add_done_callback(self._tasks.pop)


def _needs_status_first(planned: EnvironmentPlan, stop: Action) -> bool:
    """Return True if the status changes with this stop: an unhealthy container, or another container serves."""
    current = any(service.current is not None and service.current.id == stop.container for service in planned.services)
    return stop.became_unhealthy or not current
