"""The memories of one environment: changed on the event loop, kept on disk a moment later."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Final

import structlog

from devopsellence.nodeagent.docker import model
from devopsellence.nodeagent.plan.actions import TASK, RestartHistories, ServicePlan
from devopsellence.nodeagent.plan.history import NO_HISTORY, RestartHistory, FailureCause
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef

#: Of what is about all containers of a service, or about the network (see ``action.Memories``).
_NO_HASH: Final = ""
_log = structlog.get_logger()


class Remembered:
    """``memories`` is a view for planning and reporting; it changes only through the methods."""

    def __init__(self, env: EnvironmentRef, folder: StateFolder, disk: ThreadPool, memories: RestartHistories) -> None:
        self._env = env
        self._folder = folder
        self._disk = disk
        self._memories = dict(memories)
        self._saved = dict(memories)
        self._saving = False

    @property
    def memories(self) -> RestartHistories:
        return self._memories

    def change(self, key: tuple[str, str], change: Callable[[RestartHistory], RestartHistory]) -> RestartHistory:
        """Apply ``change`` to one memory; what became of it."""
        memory = change(self._memories.get(key, NO_HISTORY))
        if memory == NO_HISTORY:
            self._memories.pop(key, None)
        else:
            self._memories[key] = memory
        return memory

    def note_proved(self, services: Iterable[ServicePlan]) -> bool:
        """Note which specs run as they should at this moment. True if that was news."""
        news = False
        for service in services:
            if (proved := service.proved) is not None:
                key = (service.service, proved.hash)
                before = self._memories.get(key, NO_HISTORY)
                after = self.change(key, methodcaller("running", proved))
                if service.lasting:
                    after = self.change(key, RestartHistory.lasting)
                news = after != before or news
        return news

    def hurry(self) -> bool:
        """An image has arrived: whoever waits for one may try at once. True if somebody does."""
        waiting = [key for key, each in self._memories.items() if each.trouble is FailureCause.IMAGE or each.image_missing]
        for key in waiting:
            self.change(key, RestartHistory.hurry)
        return bool(waiting)

    def prune(self, want: Desired, containers: Sequence[model.Container], busy: Container[str]) -> None:
        """Drop what is about specs that are neither wanted nor there, except of services with an action under way."""
        live = {(container.service, container.hash) for container in containers}
        live |= {(name, wanted.hash) for name, wanted in want.services.items()}
        live.add((TASK, want.task_wanted.hash if want.task_wanted is not None else _NO_HASH))
        live |= {(service, _NO_HASH) for service, _ in live} | {("", _NO_HASH)}
        for key in [key for key in self._memories if key not in live and key[0] not in busy]:
            del self._memories[key]

    @property
    def unsaved(self) -> bool:
        """Is there something to :meth:`save`, and nobody at it?"""
        return self._memories != self._saved and not self._saving

    async def save(self) -> None:
        """Returns once what is remembered is on disk, or cannot be put there."""
        self._saving = True
        try:
            while self._memories != self._saved:
                memories = dict(self._memories)
                self._saved = memories
                await self._disk.run(partial(self._folder.save_memories, self._env, memories))
        except OSError as error:
            _log.warning("the counters could not be kept on disk", env=str(self._env), error=str(error))
        finally:
            self._saving = False
