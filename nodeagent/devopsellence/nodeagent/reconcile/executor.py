"""Carrying out one action: the engine's calls, what they show put into the view, and what is to be remembered of them.

Every action may be repeated and may find that somebody else was first; both lead to the same end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import structlog

from devopsellence.clock import Now
from devopsellence.nodeagent.docker import errors, names
from devopsellence.nodeagent.docker.interface import ContainerEngine, Fetch
from devopsellence.nodeagent.docker.model import Container, ContainerState, Network
from devopsellence.nodeagent.plan import container_config, spec
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind
from devopsellence.nodeagent.plan.history import NO_HISTORY, RestartHistory, FailureCause
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.reconcile import task_actions
from devopsellence.nodeagent.reconcile.task_store import Runs
from devopsellence.nodeagent.secrets import SecretError, Vault
from devopsellence.nodeagent.state import StateError

_log = structlog.get_logger()
#: What becomes of a memory.
Change: TypeAlias = Callable[[RestartHistory], RestartHistory]


@dataclass(frozen=True, slots=True)
class Result:
    """``change`` is to be applied to the memory at ``key`` (service and hash)."""

    key: tuple[str, str]
    change: Change


class Actions:
    """Carries out actions on one engine. ``clock`` tells the time, ``vault`` opens secrets, ``fetch`` gets images from
    other nodes."""

    def __init__(
        self, engine: ContainerEngine, clock: Callable[[], Now], vault: Vault, fetch: Fetch | None = None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._vault = vault
        self._fetch = fetch

    async def carry_out(self, action: Action, want: Desired, progress: Callable[[str], None], runs: Runs) -> Result:
        """Do it, and say what to remember. ``progress`` hears of a pull, in sentences, from another thread. ``runs`` is
        the record that the release's task needs.

        Raises:
            EngineUnavailable: whether it was done is not known; connecting again tells.
        """
        try:
            if action.service == TASK and action.kind in _TASK_METHODS:
                await _TASK_METHODS[action.kind](self._engine, action, want, runs)
                change: Change = _keep
            elif action.kind is ActionKind.PULL:
                change = await self._pull(action, want, progress)
            else:
                change = await _METHODS[action.kind](self, action, want)
        except errors.EngineUnavailable:
            raise
        except (errors.EngineError, SecretError, StateError) as error:
            return self._failed(action, want, error)
        return Result(_key(action), change)

    def _failed(self, action: Action, want: Desired, error: Exception) -> Result:
        trouble = FailureCause.DISK_FULL if isinstance(error, (errors.DiskFull, StateError)) else FailureCause.REFUSED
        reason = f"{_WORDS[action.kind]}: {error}"
        return Result(_key(action), self._refused(action, want, trouble, reason))

    def _refused(self, action: Action, want: Desired, trouble: FailureCause, reason: str) -> Change:
        now, seed = self._clock(), f"{want.env}/{action.service}"
        return lambda memory: memory.refused(trouble, reason, now, seed=seed)

    async def _create_network(self, action: Action, want: Desired) -> Change:
        labels = names.environment_labels(want.node, want.node_uid, want.env)
        try:
            network = await self._engine.call(lambda docker: docker.create_network(action.name, labels))
        except errors.Conflict:
            await self._engine.relist()
            if self._engine.cache.of(str(want.env), action.name)[1] is None:
                reason = f"a network called {action.name} that is not this agent's is in the way"
                return self._refused(action, want, FailureCause.NAME_TAKEN, reason)
        else:
            self._engine.cache.put(Network(network, action.name, str(want.env)))
        return _forget

    async def _remove_network(self, action: Action, want: Desired) -> Change:
        with suppress(errors.NotFound):
            await self._engine.call(lambda docker: docker.remove_network(action.container))
        self._engine.cache.remove(action.container)
        return _forget

    async def _pull(self, action: Action, want: Desired, progress: Callable[[str], None]) -> Change:
        wanted = _wanted(action, want)
        reference = spec.pull_reference(wanted.image)
        if reference is None:
            return await self._get(action, wanted, want, progress)
        repository, digest = reference
        try:
            await self._engine.pull(
                lambda docker: docker.pull(repository, digest, progress, self._login(repository, want))
            )
        except errors.ImageNotAvailable as error:
            return self._refused(action, want, FailureCause.PULL, f"cannot pull {repository}@{digest}: {error}")
        return RestartHistory.pulled

    async def _get(self, action: Action, wanted: DesiredService, want: Desired, progress: Callable[[str], None]) -> Change:
        """Get an image by its id, which other nodes may have and no registry has."""
        if self._fetch is None or not wanted.peers:
            return self._without_image(action, wanted, want)
        try:
            await self._fetch(wanted.image, wanted.peers, progress)
        except errors.ImageNotAvailable as error:
            reason = f"image {wanted.image} is not on this machine, and cannot be fetched from other nodes: {error}"
            return self._refused(action, want, FailureCause.PULL, reason)
        return RestartHistory.pulled

    def _without_image(self, action: Action, wanted: DesiredService, want: Desired) -> Change:
        reference = wanted.service.image.reference
        called = f" ({reference})" if reference and reference != wanted.image else ""
        reason = f"image {wanted.image}{called} is not on this machine, and an image id cannot be pulled"
        return self._refused(action, want, FailureCause.IMAGE, reason)

    async def _create(self, action: Action, want: Desired) -> Change:
        wanted = _wanted(action, want)
        try:
            # Secrets are opened on the thread that hands them to the engine, and nothing else gets to see them.
            container = await self._engine.call(
                lambda docker: docker.create(action.name, self._body(action, wanted, want))
            )
        except errors.ImageNotAvailable:
            return RestartHistory.missing_image if wanted.obtainable else self._without_image(action, wanted, want)
        except errors.Conflict:
            return await self._adopt(action, want)
        self._engine.cache.put(_created(container, action, wanted, want))
        return _keep

    def _body(self, action: Action, wanted: DesiredService, want: Desired) -> dict[str, Any]:
        secrets = self._vault.environ(want, wanted.service)
        if action.service == TASK and want.task is not None:
            return container_config.task_container_config(wanted, want, want.task, secrets, one_off=False)
        return container_config.service_container_config(wanted, want, secrets)

    def _login(self, repository: str, want: Desired) -> tuple[str, str] | None:
        """User name and password for a repository: only the assignment's own registry is told them."""
        ours = want.registry is not None and want.registry.repository == repository
        return self._vault.password(want) if ours else None

    async def _adopt(self, action: Action, want: Desired) -> Change:
        """The name is taken: by a container of ours that an earlier call made after all, or by somebody else's."""
        try:
            found = await self._engine.call(lambda docker: docker.inspect(action.name))
        except errors.NotFound:
            return _keep
        if found is not None and (found.env, found.hash) == (str(want.env), action.hash):
            self._engine.cache.put(found)
            return _keep
        reason = f"a container called {action.name} that is not this agent's is in the way (docker rm {action.name})"
        return self._refused(action, want, FailureCause.NAME_TAKEN, reason)

    async def _start(self, action: Action, want: Desired) -> Change:
        try:
            seen = await self._engine.call(lambda docker: docker.start(action.container))
        except errors.NetworkGone:
            await self._engine.relist()
            raise
        except errors.NotFound:
            self._engine.cache.remove(action.container)
            return _keep
        except errors.HalfStarted as error:
            _log.warning("a container whose start was cut off is made anew", name=action.name, error=str(error))
            with suppress(errors.NotFound):
                await self._engine.call(lambda docker: docker.remove(action.container, force=True))
            self._engine.cache.remove(action.container)
            return _keep
        if seen is not None:
            self._engine.cache.put(seen)
        return lambda memory: memory.started(seen)

    async def _connect(self, action: Action, want: Desired) -> Change:
        network = self._engine.cache.of(str(want.env), want.network)[1]
        if network is None:
            return _keep
        try:
            await self._engine.call(lambda docker: docker.connect(network.id, action.container, action.service))
        except errors.NotFound:
            await self._engine.relist()
            raise
        await self._engine.refresh(action.container)
        return RestartHistory.cleared

    async def _examine(self, action: Action, want: Desired) -> Change:
        try:
            seen, end = await self._engine.call(lambda docker: docker.inspect_exited(action.container))
        except errors.NotFound:
            self._engine.cache.remove(action.container)
            return _keep
        self._engine.cache.put(seen)
        if end is None:
            return _keep
        now, seed = self._clock(), f"{want.env}/{action.service}"
        return lambda memory: memory.ended(seen, end, now, seed=seed)

    async def _stop(self, action: Action, want: Desired) -> Change:
        try:
            await self._engine.stop(lambda docker: docker.stop(action.container))
        except errors.NotFound:
            self._engine.cache.remove(action.container)
        else:
            self._engine.cache.mark_exited(action.container)
        return _forget

    async def _remove(self, action: Action, want: Desired) -> Change:
        try:
            await self._engine.call(lambda docker: docker.remove(action.container))
        except errors.NotFound:
            pass
        except errors.Conflict:
            # It runs again, or the engine is already at it.
            await self._engine.refresh(action.container)
            raise
        self._engine.cache.remove(action.container)
        return _forget


def before(action: Action, container: Container, want: Desired, now: Now) -> Change:
    """What is to be remembered before the action begins, in case the agent does not live to see its end."""
    if action.kind is not ActionKind.STOP:
        return _keep
    if action.lapsed:
        return lambda memory: memory.lapsed(container, action.reason)
    if action.unhealthy:
        return lambda memory: memory.never_healthy(container, action.reason, now, seed=f"{want.env}/{action.service}")
    return lambda memory: memory.stopping(container)


def _keep(memory: RestartHistory) -> RestartHistory:
    return memory


def _forget(_memory: RestartHistory) -> RestartHistory:
    return NO_HISTORY


def _key(action: Action) -> tuple[str, str]:
    if action.kind in (ActionKind.STOP, ActionKind.REMOVE):
        return action.service, ""
    return action.service, action.hash


def _wanted(action: Action, want: Desired) -> DesiredService:
    """The spec that an action is about."""
    if action.service == TASK and want.task_wanted is not None:
        return want.task_wanted
    return want.services[action.service]


def _created(container: str, action: Action, wanted: DesiredService, want: Desired) -> Container:
    """How a container stands that was created this moment: known without asking."""
    task = want.task.name if action.service == TASK and want.task is not None else ""
    return Container(
        id=container,
        name=action.name,
        env=str(want.env),
        service=wanted.service.name,
        hash=action.hash,
        release=want.release,
        image=wanted.image,
        state=ContainerState.CREATED,
        task=task,
    )


_METHODS: Final[dict[ActionKind, Callable[[Actions, Action, Desired], Awaitable[Change]]]] = {
    ActionKind.CREATE_NETWORK: Actions._create_network,
    ActionKind.REMOVE_NETWORK: Actions._remove_network,
    ActionKind.CREATE: Actions._create,
    ActionKind.START: Actions._start,
    ActionKind.CONNECT: Actions._connect,
    ActionKind.EXAMINE: Actions._examine,
    ActionKind.STOP: Actions._stop,
    ActionKind.REMOVE: Actions._remove,
}
_TASK_METHODS: Final[dict[ActionKind, Callable[[ContainerEngine, Action, Desired, Runs], Awaitable[None]]]] = {
    ActionKind.START: task_actions.start,
    ActionKind.EXAMINE: task_actions.examine,
    ActionKind.GIVE_UP: task_actions.give_up,
}
_WORDS: Final = {
    ActionKind.CREATE_NETWORK: "the environment's network cannot be created",
    ActionKind.REMOVE_NETWORK: "the environment's network cannot be removed",
    ActionKind.PULL: "its image cannot be pulled",
    ActionKind.CREATE: "its container cannot be created",
    ActionKind.START: "its container cannot be started",
    ActionKind.CONNECT: "its container cannot be put on the environment's network",
    ActionKind.EXAMINE: "its container cannot be inspected",
    ActionKind.STOP: "its container cannot be stopped",
    ActionKind.REMOVE: "its container cannot be removed",
    ActionKind.GIVE_UP: "it cannot be given up",
}
