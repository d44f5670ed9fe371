"""Assignments of this node: read from etcd, kept on disk, followed from disk while etcd cannot be read.

An assignment that is missing, malformed or meant for another machine changes nothing: the last valid one stays in
force. A new assignment is on disk before any container is stopped or removed for it. Otherwise an agent killed at the
wrong moment and restarted without etcd would return to an older assignment whose containers are gone. If it cannot be
written, the last one that was stays in force, and the status of the new one says why (:class:`UnsavedAssignment`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.mirror import EtcdMirror, NodeContext
from devopsellence.nodeagent.plan.spec import Desired, assignment_problem, resolve_assignment
from devopsellence.store.keys import EnvironmentRef

#: Longest wait for the first list from etcd, where assignments are on disk.
FIRST_LIST_SECONDS: Final = 1.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UnsavedAssignment:
    """An assignment that cannot be written to disk, and why."""

    desired: Desired
    problem: str


@dataclass(frozen=True, slots=True)
class AssignmentState:
    """Assignment of one environment, as far as the agent can follow it.

    ``desired`` is None until a first valid assignment was read.
    """

    desired: Desired | None
    #: Reason why the assignment in etcd cannot be followed; empty if it can.
    problem: str = ""
    #: The assignment in etcd is for another machine of this name, with this uid, and so is its status.
    foreign_uid: str = ""
    #: etcd was read and has no assignment of this environment.
    deleted: bool = False
    #: ``desired`` is on disk.
    saved: bool = True
    #: The assignment in etcd, if it cannot be written to disk; ``desired`` is the last one that could be.
    unsaved: UnsavedAssignment | None = None


@dataclass(frozen=True, slots=True)
class _Followed:
    assignment: stored_pb2.Assignment
    desired: Desired


class Assignments(EtcdMirror[stored_pb2.Assignment]):
    """Assignments of one node. On the event loop, ``changed(ref)`` is called for every change, and ``listed`` with all
    environments once etcd was read."""

    def __init__(
        self,
        context: NodeContext,
        changed: Callable[[EnvironmentRef], None],
        listed: Callable[[frozenset[EnvironmentRef]], None] = lambda refs: None,
    ) -> None:
        prefix = context.etcd.keys.assignments_prefix(context.node)
        super().__init__(context, prefix, stored_pb2.Assignment, changed)
        #: Assignments in force, or to be in force once they are on disk.
        self._followed: dict[EnvironmentRef, _Followed] = {}
        #: Assignments on disk.
        self._on_disk: dict[EnvironmentRef, _Followed] = {}
        #: Reasons why an assignment cannot be written to disk.
        self._save_problems: dict[EnvironmentRef, str] = {}
        #: Reasons why an assignment on disk cannot be read.
        self._unreadable: dict[EnvironmentRef, str] = {}
        self._saving: set[EnvironmentRef] = set()
        #: Not in force before they are on disk, because the last write to the folder has failed.
        self._held_back: set[EnvironmentRef] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._synced = False
        self._listed = listed

    async def run(self) -> None:
        """Follow etcd until cancelled; call :meth:`load` first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            await self._informer.synced()
            self._synced = True
            self._listed(frozenset(self.environments))
            for ref in self.environments:
                self._changed(ref)

    async def load(self) -> None:
        """Load the assignments on disk."""
        uid, folder = self._context.node_uid, self._context.folder
        for ref, assignment in (await self._context.disk.run(folder.assignments)).items():
            if assignment.node_uid != uid:
                _log.warning("an assignment on disk is for another machine", env=str(ref), uid=assignment.node_uid)
                continue
            followed = _Followed(assignment, resolve_assignment(assignment, ref, uid))
            self._followed[ref] = self._on_disk[ref] = followed
        self._unreadable = dict(folder.unreadable_assignments)

    def folder_problem_changed(self, problem: str) -> None:
        """Write the assignments that could not be written, if the folder can be written again (no ``problem``)."""
        if not problem:
            for ref in list(self._save_problems):
                self._save(ref)

    async def first_list(self) -> None:
        """Wait for the first list from etcd; with assignments on disk, at most ``FIRST_LIST_SECONDS``."""
        if not self._followed:
            return
        try:
            async with asyncio.timeout(FIRST_LIST_SECONDS):
                await self._informer.synced()
        except TimeoutError:
            _log.warning("etcd has not answered yet; following the assignments on disk", problem=self.problem)

    @property
    def environments(self) -> set[EnvironmentRef]:
        """Environments with an assignment now or earlier."""
        refs = {*self._followed, *self._unreadable}
        for key in self._informer.records:
            if (ref := self._parse(key)) is not None:
                refs.add(ref)
        return refs

    @property
    def foreign_uid(self) -> str:
        """Uid of the machine that the assignments in etcd are for, if it is not this machine's; else empty."""
        return next((state.foreign_uid for ref in self.environments if (state := self.get(ref)).foreign_uid), "")

    def get(self, ref: EnvironmentRef) -> AssignmentState:
        """Return the assignment to follow now.

        A new assignment is followed at once, unless the folder could not be written before; ``changed`` is called
        again when it is on disk.
        """
        record = self._informer.records.get(self._keys.assignment(self._context.node, ref))
        if record is None:
            deleted = self._synced and self._informer.connected
            problem = "" if ref in self._followed else self._unreadable.get(ref, "")
            return replace(self._current(ref), deleted=deleted, problem=problem)
        if record.message is None:
            return replace(self._current(ref), problem=str(record.error))
        message = record.message
        if message.node_uid != self._context.node_uid:
            return replace(self._current(ref), foreign_uid=message.node_uid)
        if problem := assignment_problem(message, self._context.node, ref):
            return replace(self._current(ref), problem=f"{record.key} cannot be followed: {problem}")
        followed = self._followed.get(ref)
        if followed is None or message != followed.assignment:
            self._follow(ref, message)
        return self._current(ref)

    def _current(self, ref: EnvironmentRef) -> AssignmentState:
        """Return the assignment in force; changes of a new one that cannot be written to disk are not."""
        followed = self._followed.get(ref)
        if followed is None:
            return AssignmentState(None)
        problem = self._save_problems.get(ref, "")
        if not problem and ref not in self._held_back:
            return AssignmentState(followed.desired, saved=ref not in self._saving)
        on_disk = self._on_disk.get(ref)
        unsaved = UnsavedAssignment(followed.desired, problem) if problem else None
        return AssignmentState(on_disk.desired if on_disk is not None else None, unsaved=unsaved)

    async def forget(self, ref: EnvironmentRef) -> None:
        """Forget an environment whose tombstone is carried out and deleted."""
        for known in (self._followed, self._on_disk, self._save_problems, self._unreadable):
            known.pop(ref, None)
        remove = partial(self._context.folder.forget, ref)
        await self._try_save(remove, "the files of an environment could not be removed", env=str(ref))

    def _follow(self, ref: EnvironmentRef, assignment: stored_pb2.Assignment) -> None:
        desired = resolve_assignment(assignment, ref, self._context.node_uid)
        self._followed[ref] = _Followed(assignment, desired)
        if self._context.folder.files.problem:
            self._held_back.add(ref)
        _log.info(
            "following an assignment",
            env=str(ref),
            generation=assignment.generation,
            release=assignment.release,
            services=len(assignment.services),
            removed=assignment.removed,
        )
        self._save(ref)

    def _save(self, ref: EnvironmentRef) -> None:
        """Write the assignment to disk; ``changed`` is called afterwards."""
        if ref not in self._saving:
            self._saving.add(ref)
            task = asyncio.create_task(self._save_newest(ref))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _save_newest(self, ref: EnvironmentRef) -> None:
        """Write the assignment to disk, again until the newest one is there or cannot be written."""
        tried: _Followed | None = None
        try:
            while (followed := self._followed.get(ref)) is not None and followed is not tried:
                tried = followed
                write = partial(self._context.folder.save_assignment, ref, followed.assignment)
                problem = await self._try_save(write, "an assignment could not be kept on disk", env=str(ref))
                if self._followed.get(ref) is not followed:
                    continue
                if problem:
                    self._save_problems[ref] = problem
                else:
                    self._on_disk[ref] = followed
                    self._save_problems.pop(ref, None)
                    self._unreadable.pop(ref, None)
        finally:
            self._saving.discard(ref)
            self._held_back.discard(ref)
        self._changed(ref)

    def _on_key(self, key: str) -> None:
        ref = self._parse(key)
        if ref is None:
            _log.warning("a key under this node's assignments names no environment", key=key)
            return
        self._changed(ref)

    def _parse(self, key: str) -> EnvironmentRef | None:
        try:
            return self._keys.parse_assignment(key)[1]
        except ValueError:
            return None
