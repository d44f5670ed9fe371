"""The record of one environment's release tasks: on disk before anybody acts on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Self

from devopsellence.nodeagent.plan.task_run import TaskRun, TaskRunKey, with_run
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef


class Runs:
    """``known`` is for planning; it changes only through :meth:`keep`. ``problem``: why the record could not be read;
    then nothing is known, and no task may be started."""

    def __init__(
        self, env: EnvironmentRef, folder: StateFolder, disk: ThreadPool, runs: Iterable[TaskRun] = (), problem: str = ""
    ) -> None:
        self.problem = problem
        self._env = env
        self._folder = folder
        self._disk = disk
        self._runs = tuple(runs)

    @classmethod
    async def load(cls, env: EnvironmentRef, folder: StateFolder, disk: ThreadPool) -> Self:
        """What is on disk."""
        try:
            return cls(env, folder, disk, await disk.run(partial(folder.runs, env)))
        except StateError as error:
            return cls(env, folder, disk, problem=str(error))

    @property
    def known(self) -> Mapping[TaskRunKey, TaskRun]:
        return {each.key: each for each in self._runs}

    def of(self, key: TaskRunKey) -> TaskRun:
        """What is known of a run: at least its key."""
        return self.known.get(key, TaskRun(*key))

    def started_in(self, container: str) -> TaskRun | None:
        """The run that is on record as started in this container, and not as ended."""
        return next((each for each in self._runs if each.container == container and not each.ended), None)

    async def keep(self, run: TaskRun) -> None:
        """Returns once it is on disk, and counts from then on.

        Raises:
            StateError: it cannot be written; nothing has changed.
        """
        if self.problem:
            raise StateError(self.problem)
        runs = with_run(self._runs, run)
        if runs == self._runs:
            return
        try:
            await self._disk.run(partial(self._folder.save_runs, self._env, runs))
        except OSError as error:
            raise StateError(f"the record of release tasks cannot be written: {error.strerror}") from error
        self._runs = runs
