"""Restart histories of one environment: changed on the event loop, written to disk a moment later."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Final

import structlog

from devopsellence.nodeagent.docker import model
from devopsellence.nodeagent.plan.actions import TASK, RestartHistories, ServicePlan
from devopsellence.nodeagent.plan.history import NETWORK_PROBLEMS, NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef

#: Hash in the key of a history about all containers of a service, or about the network (see ``RestartHistories``).
_NO_HASH: Final = ""
_log = structlog.get_logger()


class RestartHistoryStore:
    """Restart histories of one environment. ``histories`` is read-only; changes go through the methods."""

    def __init__(self, ref: EnvironmentRef, folder: StateFolder, disk: ThreadPool, histories: RestartHistories) -> None:
        self._ref = ref
        self._folder = folder
        self._disk = disk
        self._histories = dict(histories)
        self._saved = dict(histories)
        self._saving = False

    @property
    def histories(self) -> RestartHistories:
        return self._histories

    def change(self, key: tuple[str, str], change: Callable[[RestartHistory], RestartHistory]) -> RestartHistory:
        """Apply ``change`` to the history of ``key`` (service and hash); return the new history."""
        history = change(self._histories.get(key, NO_HISTORY))
        if history == NO_HISTORY:
            self._histories.pop(key, None)
        else:
            self._histories[key] = history
        return history

    def note_ready(self, services: Iterable[ServicePlan]) -> bool:
        """Note the containers that are ready at this moment; return True if a history changed."""
        changed = False
        for service in services:
            if (container := service.ready) is not None:
                key = (service.service, container.hash)
                before = self._histories.get(key, NO_HISTORY)
                after = self.change(key, methodcaller("running", container))
                if service.lapses_expired:
                    after = self.change(key, RestartHistory.forget_lapses)
                if service.lasted:
                    after = self.change(key, RestartHistory.has_lasted)
                changed = after != before or changed
        return changed

    def image_arrived(self) -> bool:
        """Let every service that waits for an image try again at once; return True if there is such a service."""
        waiting = [
            key
            for key, history in self._histories.items()
            if history.failure is FailureCause.IMAGE or history.image_missing
        ]
        for key in waiting:
            self.change(key, RestartHistory.retry_now)
        return bool(waiting)

    def networks_changed(self) -> bool:
        """Let the environment's network be tried again at once if it could not be created; True if so."""
        key = ("", _NO_HASH)
        history = self._histories.get(key, NO_HISTORY)
        if history.failure not in NETWORK_PROBLEMS:
            return False
        self.change(key, RestartHistory.retry_now)
        return True

    def names_released(self) -> bool:
        """Let every service whose names others had taken try again at once, because the names are free; return True if
        there is such a service."""
        waiting = [
            key
            for key, history in self._histories.items()
            # Not the network's: its name is taken by a network.
            if history.failure is FailureCause.NAME_TAKEN and key != ("", _NO_HASH)
        ]
        for key in waiting:
            self.change(key, RestartHistory.cleared)
        return bool(waiting)

    def prune(self, desired: Desired, containers: Sequence[model.Container], busy: Container[str]) -> None:
        """Drop histories of specs neither assigned nor present, except of services with an action in progress."""
        live = {(container.service, container.hash) for container in containers}
        live |= {(name, assigned.hash) for name, assigned in desired.services.items()}
        live.add((TASK, desired.task_service.hash if desired.task_service is not None else _NO_HASH))
        live |= {(service, _NO_HASH) for service, _ in live} | {("", _NO_HASH)}
        for key in [key for key in self._histories if key not in live and key[0] not in busy]:
            del self._histories[key]

    @property
    def unsaved(self) -> bool:
        """Return True if there are changes to :meth:`save`, and no save in progress."""
        return self._histories != self._saved and not self._saving

    async def save(self) -> None:
        """Write all changes to disk; a failure is logged."""
        self._saving = True
        try:
            while self._histories != self._saved:
                histories = dict(self._histories)
                self._saved = histories
                await self._disk.run(partial(self._folder.save_restart_histories, self._ref, histories))
        except OSError as error:
            _log.warning("the restart histories could not be kept on disk", env=str(self._ref), error=str(error))
        finally:
            self._saving = False
