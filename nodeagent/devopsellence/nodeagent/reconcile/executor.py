"""Execution of one action: calls to the engine, updates of the cache, changes of restart histories and task records.

Every action can be repeated, and can find its work done already by somebody else; both lead to the same end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import structlog

from devopsellence.clock import Now
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.creation import CreatedContainer, create_container, mounted_volumes
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.docker.model import Container, ContainerState, Network
from devopsellence.nodeagent.docker.output import says_denied
from devopsellence.nodeagent.docker.ownership import MountedVolumes
from devopsellence.nodeagent.plan import container_config, spec
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.reconcile.machine import PullFromPeers
from devopsellence.nodeagent.reconcile.task_actions import TASK_ACTIONS
from devopsellence.nodeagent.reconcile.task_store import TaskStore
from devopsellence.nodeagent.secrets import SecretDecrypter, SecretError
from devopsellence.nodeagent.state import StateError

_NO_ADDRESS_POOL: Final = (
    "Docker has no addresses left for another network, and every environment needs one: remove networks that nobody "
    "uses (docker network prune), or give Docker more (default-address-pools in /etc/docker/daemon.json)"
)
_log = structlog.get_logger()
#: Function from a restart history to the next one.
HistoryChange: TypeAlias = Callable[[RestartHistory], RestartHistory]
#: Function that keeps the output (the engine's frames) of a container about to be removed; raises OSError.
KeepOutput: TypeAlias = Callable[[Container, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ActionResult:
    """Change of the restart history at ``key`` (service and hash)."""

    key: tuple[str, str]
    change: HistoryChange


class ActionExecutor:
    """Executes actions on one engine. ``clock`` reads both clocks."""

    def __init__(
        self,
        engine: ContainerEngine,
        clock: Callable[[], Now],
        decrypter: SecretDecrypter,
        pull_from_peers: PullFromPeers | None = None,
        keep_output: KeepOutput | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._decrypter = decrypter
        self._pull_from_peers = pull_from_peers
        self._keep_output = keep_output

    async def carry_out(
        self, action: Action, desired: Desired, progress: Callable[[str], None], tasks: TaskStore
    ) -> ActionResult:
        """Execute an action; return the change of its restart history, also after a failure.

        ``progress`` gets sentences about a pull, on another thread. ``tasks`` has the records of release tasks.

        Raises:
            EngineUnavailable: the outcome is unknown until the engine is connected again.
            ContainerHung: the outcome is unknown until the engine answers about the container again.
        """
        try:
            if action.service == TASK and action.kind in TASK_ACTIONS:
                await TASK_ACTIONS[action.kind](self._engine, action, desired, tasks)
                change: HistoryChange = _keep
            elif action.kind is ActionKind.PULL:
                change = await self._pull(action, desired, progress)
            else:
                change = await _METHODS[action.kind](self, action, desired)
        except (errors.EngineUnavailable, errors.ContainerHung):
            raise
        except (errors.EngineError, SecretError, StateError) as error:
            return self._failed(action, desired, error)
        return ActionResult(_history_key(action), change)

    def _failed(self, action: Action, desired: Desired, error: Exception) -> ActionResult:
        is_disk = isinstance(error, (errors.DiskFull, StateError))
        cause = FailureCause.DISK_FULL if is_disk else FailureCause.REFUSED
        reason = f"{_FAILURES[action.kind]}: {error}"
        return ActionResult(_history_key(action), self._refused(action, desired, cause, reason))

    def _refused(self, action: Action, desired: Desired, cause: FailureCause, reason: str) -> HistoryChange:
        now, seed = self._clock(), f"{desired.ref}/{action.service}"
        return lambda history: history.refused(cause, reason, now, seed=seed)

    async def _create_network(self, action: Action, desired: Desired) -> HistoryChange:
        labels = names.environment_labels(desired.node, desired.node_uid, desired.ref)
        try:
            network = await self._engine.call(lambda docker: docker.create_network(action.name, labels))
        except errors.Conflict:
            await self._engine.relist()
            if self._engine.cache.of(str(desired.ref), action.name)[1] is None:
                reason = (
                    f"a network called {action.name} that is not this agent's is in the way "
                    f"(docker network rm {action.name})"
                )
                return self._refused(action, desired, FailureCause.NAME_TAKEN, reason)
        except errors.NoAddressPool:
            return self._refused(action, desired, FailureCause.ADDRESS_POOL, _NO_ADDRESS_POOL)
        else:
            self._engine.cache.put(Network(network, action.name, str(desired.ref)))
        return _forget

    async def _remove_network(self, action: Action, desired: Desired) -> HistoryChange:
        with suppress(errors.NotFound):
            await self._engine.call(lambda docker: docker.remove_network(action.container))
        self._engine.cache.remove(action.container)
        return _forget

    async def _pull(self, action: Action, desired: Desired, progress: Callable[[str], None]) -> HistoryChange:
        assigned = _assigned(action, desired)
        reference = spec.pull_reference(assigned.image)
        if reference is None:
            return await self._pull_by_id(action, assigned, desired, progress)
        repository, digest = reference
        try:
            await self._engine.pull(
                lambda docker: docker.pull(
                    repository, digest, progress, self._decrypter.registry_login(desired, repository)
                )
            )
        except errors.ImageNotAvailable as error:
            return self._refused(action, desired, FailureCause.PULL, f"cannot pull {repository}@{digest}: {error}")
        return RestartHistory.pulled

    async def _pull_by_id(
        self, action: Action, assigned: DesiredService, desired: Desired, progress: Callable[[str], None]
    ) -> HistoryChange:
        """Pull an image by its id from other nodes; registries do not know image ids."""
        if self._pull_from_peers is None or not assigned.peers:
            return self._without_image(action, assigned, desired)
        try:
            await self._pull_from_peers(assigned.image, assigned.peers, progress)
        except errors.ImageNotAvailable as error:
            reason = f"image {assigned.image} is not on this machine, and cannot be fetched from other nodes: {error}"
            return self._refused(action, desired, FailureCause.PULL, reason)
        return RestartHistory.pulled

    def _without_image(self, action: Action, assigned: DesiredService, desired: Desired) -> HistoryChange:
        reference = assigned.spec.image.reference
        name = f" ({reference})" if reference and reference != assigned.image else ""
        reason = f"image {assigned.image}{name} is not on this machine, and an image id cannot be pulled"
        return self._refused(action, desired, FailureCause.IMAGE, reason)

    async def _create(self, action: Action, desired: Desired) -> HistoryChange:
        assigned = _assigned(action, desired)
        try:
            configured = container_config.configured_volumes(assigned.spec, desired)
            service = (desired.node_uid, assigned.spec.name, assigned.image)
            volumes = await mounted_volumes(self._engine, desired.ref, service, configured)
            # Secrets are decrypted on the thread of the call to the engine; no other code gets the plaintext.
            created = await create_container(
                self._engine,
                action.name,
                lambda: self._container_config(action, assigned, desired, volumes),
                (str(desired.ref), assigned.spec.name),
            )
        except errors.ImageNotAvailable:
            if assigned.can_pull:
                return RestartHistory.missing_image
            return self._without_image(action, assigned, desired)
        except errors.NamesInUse as error:
            return self._refused(action, desired, FailureCause.NAME_TAKEN, str(error))
        except errors.NetworkGone:
            raise
        except errors.NotFound:
            # The container that had the name is gone.
            return _keep
        container = created.existing or _created(created, action, assigned, desired, volumes.by_path)
        self._engine.cache.put(container, created.asked)
        if (container.environment, container.hash, bool(container.task)) != (
            str(desired.ref),
            action.hash,
            action.service == TASK,
        ):
            reason = (
                f"another container of the agent is called {container.name}; remove it (docker rm {container.name})"
            )
            return self._refused(action, desired, FailureCause.REFUSED, reason)
        return _keep

    def _container_config(
        self, action: Action, assigned: DesiredService, desired: Desired, volumes: MountedVolumes
    ) -> dict[str, Any]:
        secrets = self._decrypter.environ(desired, assigned.spec)
        if action.service == TASK and desired.task is not None:
            return container_config.task_container_config(
                assigned, desired, desired.task, secrets, one_off=False, volumes=volumes
            )
        return container_config.service_container_config(assigned, desired, secrets, volumes)

    async def _start(self, action: Action, desired: Desired) -> HistoryChange:
        asked = self._engine.cache.stamp()
        try:
            container = await self._engine.call(lambda docker: docker.start(action.container), about=action.container)
        except errors.NetworkGone:
            await self._engine.relist()
            raise
        except errors.NotFound:
            self._engine.cache.remove(action.container)
            return _keep
        except errors.HalfStarted as error:
            _log.warning("a container whose start was cut off is recreated", name=action.name, error=str(error))
            with suppress(errors.NotFound):
                await self._engine.call(
                    lambda docker: docker.remove(action.container, force=True), about=action.container
                )
            self._engine.cache.remove(action.container)
            self._engine.owned.forget(action.container)
            return _keep
        if container is not None:
            self._engine.cache.put(container, asked)
        return lambda history: history.started(container)

    async def _connect(self, action: Action, desired: Desired) -> HistoryChange:
        network = self._engine.cache.of(str(desired.ref), desired.network)[1]
        if network is None:
            return _keep
        try:
            await self._engine.call(
                lambda docker: docker.connect(network.id, action.container, action.service), about=action.container
            )
        except errors.NotFound:
            await self._engine.relist()
            raise
        await self._engine.refresh(action.container)
        return RestartHistory.cleared

    async def _update(self, action: Action, desired: Desired) -> HistoryChange:
        """Set what was changed by hand back. Without success the container goes on as it is, and so does its service:
        the loop tries again later (``plan.repeats``)."""
        assigned = desired.services.get(action.service)
        is_assigned = assigned is not None and assigned.hash == action.hash
        body = container_config.update_config(assigned.spec if assigned is not None and is_assigned else None)
        try:
            await self._engine.call(lambda docker: docker.update(action.container, body), about=action.container)
        except errors.NotFound:
            self._engine.cache.remove(action.container)
            return _keep
        except (errors.EngineRefused, errors.TimedOut) as error:
            _log.warning("the settings of a container cannot be set back", name=action.name, error=str(error))
        await self._engine.refresh(action.container)
        return _keep

    async def _examine(self, action: Action, desired: Desired) -> HistoryChange:
        asked = self._engine.cache.stamp()
        try:
            container, end = await self._engine.call(
                lambda docker: docker.inspect_exited(action.container), about=action.container
            )
        except errors.NotFound:
            self._engine.cache.remove(action.container)
            return _keep
        self._engine.cache.put(container, asked)
        if end is None:
            return _keep
        known = self._engine.cache.containers.get(container.id)
        if known is not None and known.ran is not None:
            end = replace(end, ran=known.ran)
        hint = await self._volume_hint(action, end.log_lines)
        now, seed = self._clock(), f"{desired.ref}/{action.service}"
        return lambda history: history.ended(container, end, now, seed=seed, hint=hint)

    async def _read_output(self, action: Action, desired: Desired) -> HistoryChange:
        container = self._engine.cache.containers.get(action.container)
        try:
            lines = await self._engine.call(lambda docker: docker.last_lines(action.container), about=action.container)
        except errors.NotFound:
            self._engine.cache.remove(action.container)
            return _keep
        except errors.EngineUnavailable:
            raise
        except errors.EngineError as error:
            # Whatever its output is, the container is not healthy.
            lines = (f"(the Docker Engine does not return the output: {error})",)
        if container is None:
            return _keep
        hint = await self._volume_hint(action, lines)
        now = self._clock()
        return lambda history: history.found_unhealthy(container, action.reason, now, lines, hint=hint)

    async def _volume_hint(self, action: Action, lines: Sequence[str]) -> str:
        """Return the hint at a volume of root's, if the output of the container says that access was denied."""
        if not says_denied(lines):
            return ""
        try:
            return await self._engine.call(lambda docker: docker.volume_hint(action.container), about=action.container)
        except errors.EngineUnavailable:
            raise
        except errors.EngineError as error:
            _log.info("the owner of a volume is not known", name=action.name, error=str(error))
            return ""

    async def _stop(self, action: Action, desired: Desired) -> HistoryChange:
        try:
            await self._engine.stop(lambda docker: docker.stop(action.container), about=action.container)
        except errors.NotFound:
            self._engine.cache.remove(action.container)
        else:
            self._engine.cache.mark_exited(action.container, self._clock().mono)
        return _forget

    async def _remove(self, action: Action, desired: Desired) -> HistoryChange:
        await self._save_output(action)
        try:
            # A task of version 0.1 can have anonymous volumes, which nothing else uses.
            anonymous = action.service == TASK
            await self._engine.call(
                lambda docker: docker.remove(action.container, anonymous=anonymous), about=action.container
            )
        except errors.NotFound:
            pass
        except errors.Conflict:
            # The container runs again, or the engine is removing it already.
            await self._engine.refresh(action.container)
            raise
        self._engine.cache.remove(action.container)
        self._engine.owned.forget(action.container)
        return _forget

    async def _remove_volume(self, action: Action, desired: Desired) -> HistoryChange:
        with suppress(errors.NotFound):
            await self._engine.call(lambda docker: docker.remove_volume(action.name))
        self._engine.owned.drop_volumes([action.name])
        _log.info("volume removed with its service", env=str(desired.ref), service=action.service, volume=action.name)
        return _forget

    async def _save_output(self, action: Action) -> None:
        """Keep the output of a container about to be removed. A failure is logged, and does not stop the removal."""
        container = self._engine.cache.containers.get(action.container)
        if self._keep_output is None or container is None or container.state is ContainerState.CREATED:
            return
        try:
            frames = await self._engine.call(lambda docker: docker.log_tail(action.container), about=action.container)
            if frames:
                await self._keep_output(container, frames)
        except errors.EngineUnavailable:
            raise
        except (errors.EngineError, OSError) as error:
            _log.warning("the output of a removed container is not kept", name=action.name, error=str(error))


def change_before(action: Action, container: Container, desired: Desired, now: Now) -> HistoryChange:
    """Return the history change to make before an action starts, in case the agent is killed during the action."""
    if action.kind is not ActionKind.STOP:
        return _keep
    if action.became_unhealthy:
        return lambda history: history.became_unhealthy(container, action.reason)
    if action.unhealthy:
        seed = f"{desired.ref}/{action.service}"
        return lambda history: history.never_healthy(container, action.reason, now, seed=seed)
    return lambda history: history.stopping(container)


def _keep(history: RestartHistory) -> RestartHistory:
    return history


def _forget(_history: RestartHistory) -> RestartHistory:
    return NO_HISTORY


def _history_key(action: Action) -> tuple[str, str]:
    if action.kind in (ActionKind.STOP, ActionKind.REMOVE, ActionKind.REMOVE_VOLUME):
        return action.service, ""
    return action.service, action.hash


def _assigned(action: Action, desired: Desired) -> DesiredService:
    """Return the assigned service (for a task: the service to run in) of an action."""
    if action.service == TASK and desired.task_service is not None:
        return desired.task_service
    return desired.services[action.service]


def _created(
    created: CreatedContainer, action: Action, assigned: DesiredService, desired: Desired, volumes: Mapping[str, str]
) -> Container:
    """Return a container created this moment, without asking the engine."""
    task = desired.task.name if action.service == TASK and desired.task is not None else ""
    return Container(
        id=created.id,
        name=created.name,
        environment=str(desired.ref),
        service=assigned.spec.name,
        hash=action.hash,
        release=desired.release,
        image=assigned.image,
        state=ContainerState.CREATED,
        task=task,
        volumes=volumes,
    )


_METHODS: Final[dict[ActionKind, Callable[[ActionExecutor, Action, Desired], Awaitable[HistoryChange]]]] = {
    ActionKind.CREATE_NETWORK: ActionExecutor._create_network,
    ActionKind.REMOVE_NETWORK: ActionExecutor._remove_network,
    ActionKind.CREATE: ActionExecutor._create,
    ActionKind.START: ActionExecutor._start,
    ActionKind.CONNECT: ActionExecutor._connect,
    ActionKind.UPDATE: ActionExecutor._update,
    ActionKind.EXAMINE: ActionExecutor._examine,
    ActionKind.READ_OUTPUT: ActionExecutor._read_output,
    ActionKind.STOP: ActionExecutor._stop,
    ActionKind.REMOVE: ActionExecutor._remove,
    ActionKind.REMOVE_VOLUME: ActionExecutor._remove_volume,
}
_FAILURES: Final = {
    ActionKind.CREATE_NETWORK: "the environment's network cannot be created",
    ActionKind.REMOVE_NETWORK: "the environment's network cannot be removed",
    ActionKind.PULL: "its image cannot be pulled",
    ActionKind.CREATE: "its container cannot be created",
    ActionKind.START: "its container cannot be started",
    ActionKind.CONNECT: "its container cannot be put on the environment's network",
    ActionKind.UPDATE: "the settings of its container cannot be set back",
    ActionKind.EXAMINE: "its container cannot be inspected",
    ActionKind.READ_OUTPUT: "the output of its container cannot be read",
    ActionKind.STOP: "its container cannot be stopped",
    ActionKind.REMOVE: "its container cannot be removed",
    ActionKind.REMOVE_VOLUME: "the volume of its image cannot be removed",
    ActionKind.GIVE_UP: "it cannot be given up",
}
