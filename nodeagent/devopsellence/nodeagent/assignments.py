"""What is assigned to this node: read from etcd, kept on disk, and followed from there when etcd cannot be read.

"Cannot read" is not "empty": an assignment that is missing, does not parse or is meant for another machine changes
nothing. Only an assignment that was read replaces the one before, and it is on disk before anything is stopped or
removed for it: otherwise an agent that is killed at the wrong moment, and starts again without etcd, would go back to
an older one whose containers are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment, assignment_problem
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef, Keys

#: With assignments on disk, the first list is waited for so long before they are followed as they are.
FIRST_LIST_SECONDS: Final = 1.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Assigned:
    """What to follow in one environment.

    ``want`` is None if no assignment of it has ever been read. ``problem``: why the one in etcd cannot be followed,
    empty if it can. ``foreign``: the one in etcd is for another machine of this node's name, with this uid, so its
    status is not ours to write. ``absent``: etcd has been read and has none. ``saved``: ``want`` is on disk.
    """

    want: Desired | None
    problem: str = ""
    foreign: str = ""
    absent: bool = False
    saved: bool = True


@dataclass(frozen=True, slots=True)
class _Followed:
    assignment: stored_pb2.Assignment
    want: Desired


class Assignments:
    """The assignments of one node. ``changed(env)`` is called on the loop when one is to be looked at again."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        node: str,
        node_uid: str,
        folder: StateFolder,
        disk: ThreadPool,
        changed: Callable[[EnvironmentRef], None],
    ) -> None:
        self._keys = keys
        self._node = node
        self._uid = node_uid
        self._folder = folder
        self._disk = disk
        self._changed = changed
        self._followed: dict[EnvironmentRef, _Followed] = {}
        self._saving: set[EnvironmentRef] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._synced = False
        self._informer = Informer(etcd, keys.assignments_prefix(node), stored_pb2.Assignment, self._on_change)

    async def run(self) -> None:
        """Follow etcd until cancelled; call :meth:`load` first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            await self._informer.synced()
            self._synced = True
            for env in self.environments:
                self._changed(env)

    async def load(self) -> None:
        """Take up what is on disk."""
        for env, assignment in (await self._disk.run(self._folder.assignments)).items():
            if assignment.node_uid != self._uid:
                _log.warning("an assignment on disk is for another machine", env=str(env), uid=assignment.node_uid)
                continue
            self._followed[env] = _Followed(assignment, resolve_assignment(assignment, env, self._uid))

    async def first_list(self) -> None:
        """Returns once etcd has been read, or after a second without it."""
        if not self._followed:
            return
        try:
            async with asyncio.timeout(FIRST_LIST_SECONDS):
                await self._informer.synced()
        except TimeoutError:
            _log.warning("etcd has not answered yet; following the assignments on disk", problem=self._informer.problem)

    @property
    def environments(self) -> set[EnvironmentRef]:
        """Every environment of which there is, or was, an assignment."""
        found = set(self._followed)
        for key in self._informer.records:
            if (env := self._parse(key)) is not None:
                found.add(env)
        return found

    @property
    def unread(self) -> str:
        """Why etcd's assignments cannot be read at the moment; empty when they are followed as they change."""
        return self._informer.problem

    @property
    def foreign(self) -> str:
        """The uid for which the assignments in etcd are meant, where it is not ours."""
        return next((each.foreign for env in self.environments if (each := self.look(env)).foreign), "")

    def look(self, env: EnvironmentRef) -> Assigned:
        """What to follow now. A new assignment is followed at once, and ``changed`` called when it is on disk."""
        followed = self._followed.get(env)
        want = followed.want if followed else None
        saved = env not in self._saving
        record = self._informer.records.get(self._keys.assignment(self._node, env))
        if record is None:
            return Assigned(want, absent=self._synced and self._informer.connected, saved=saved)
        if record.message is None:
            return Assigned(want, problem=str(record.error), saved=saved)
        message = record.message
        if message.node_uid != self._uid:
            return Assigned(want, foreign=message.node_uid, saved=saved)
        if problem := assignment_problem(message, self._node, env):
            return Assigned(want, problem=f"{record.key} cannot be followed: {problem}", saved=saved)
        if followed is None or message != followed.assignment:
            want = self._follow(env, message)
        return Assigned(want, saved=env not in self._saving)

    async def forget(self, env: EnvironmentRef) -> None:
        """A tombstone has been carried out and is gone."""
        self._followed.pop(env, None)
        await self._disk.run(lambda: self._folder.forget(env))

    def _follow(self, env: EnvironmentRef, assignment: stored_pb2.Assignment) -> Desired:
        want = resolve_assignment(assignment, env, self._uid)
        self._followed[env] = _Followed(assignment, want)
        _log.info(
            "following an assignment",
            env=str(env),
            generation=assignment.generation,
            release=assignment.release,
            services=len(assignment.services),
            removed=assignment.removed,
        )
        if env not in self._saving:
            self._saving.add(env)
            task = asyncio.create_task(self._save(env))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return want

    async def _save(self, env: EnvironmentRef) -> None:
        saved: stored_pb2.Assignment | None = None
        try:
            while (followed := self._followed.get(env)) and followed.assignment is not saved:
                saved = followed.assignment
                await self._disk.run(partial(self._folder.save_assignment, env, saved))
        except OSError as error:
            # Running what is assigned matters more than remembering it.
            _log.error("an assignment could not be kept on disk", env=str(env), error=str(error))
        finally:
            self._saving.discard(env)
        self._changed(env)

    def _on_change(self, key: str) -> None:
        env = self._parse(key)
        if env is None:
            _log.warning("a key under this node's assignments names no environment", key=key)
            return
        self._changed(env)

    def _parse(self, key: str) -> EnvironmentRef | None:
        try:
            return self._keys.parse_assignment(key)[1]
        except ValueError:
            return None
