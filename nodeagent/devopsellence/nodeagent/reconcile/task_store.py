"""Records of one environment's release tasks, on disk before anything is done because of a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Self

from devopsellence.nodeagent.plan.task_run import TaskRun, TaskRunKey, with_run
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef


class TaskStore:
    """Task runs of one environment.

    ``problem``: reason why the records on disk cannot be read, else empty. With a problem ``runs`` is empty, and no
    task may be started.
    """

    def __init__(
        self,
        ref: EnvironmentRef,
        folder: StateFolder,
        disk: ThreadPool,
        runs: Iterable[TaskRun] = (),
        problem: str = "",
    ) -> None:
        self.problem = problem
        self._ref = ref
        self._folder = folder
        self._disk = disk
        self._runs = tuple(runs)

    @classmethod
    async def load(cls, ref: EnvironmentRef, folder: StateFolder, disk: ThreadPool) -> Self:
        """Load the records on disk."""
        try:
            return cls(ref, folder, disk, await disk.run(partial(folder.task_runs, ref)))
        except StateError as error:
            return cls(ref, folder, disk, problem=str(error))

    @property
    def runs(self) -> Mapping[TaskRunKey, TaskRun]:
        """Runs by key, for the planner; changed by :meth:`save` only."""
        return {run.key: run for run in self._runs}

    def get(self, key: TaskRunKey) -> TaskRun:
        """Return the run of ``key``; a run not started yet if there is no record."""
        return self.runs.get(key, TaskRun(*key))

    def started_in(self, container: str) -> TaskRun | None:
        """Return the run started in this container (id) and not ended, according to the records."""
        return next((run for run in self._runs if run.container == container and not run.ended), None)

    async def save(self, run: TaskRun) -> None:
        """Write a run to disk. The run is in effect once this returns.

        Raises:
            StateError: the records cannot be written; nothing changed.
        """
        if self.problem:
            raise StateError(self.problem)
        runs = with_run(self._runs, run)
        if runs == self._runs:
            return
        try:
            await self._disk.run(partial(self._folder.save_task_runs, self._ref, runs))
        except OSError as error:
            raise StateError(f"the record of release tasks cannot be written: {error.strerror}") from error
        self._runs = runs
