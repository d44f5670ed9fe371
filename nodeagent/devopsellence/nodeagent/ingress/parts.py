"""What the controller sends about ingress besides assignments: read from etcd, kept on disk, and used from there when
etcd cannot be read.

"Cannot read" is not "empty", as with assignments: what is malformed, cannot be opened or is meant for another machine
changes nothing. A certificate whose key has gone from etcd is served on for as long as the assignment names its host;
challenges, requests for a key and other nodes' routers go with theirs. Private keys are in the clear in memory only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.ingress.site import Given
from devopsellence.nodeagent.ingress.taken import EMPTY, Taken, given, left, refused, take
from devopsellence.nodeagent.pool import Pool
from devopsellence.nodeagent.secrets import Vault
from devopsellence.nodeagent.state import StateFolder
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef, Keys

_log = structlog.get_logger()


class Parts:
    """The parts of one node. ``changed(env)`` is called on the loop when they are others than before."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        node: str,
        node_uid: str,
        folder: StateFolder,
        disk: Pool,
        vault: Vault,
        changed: Callable[[EnvironmentRef], None],
    ) -> None:
        self._keys = keys
        self._node = node
        self._uid = node_uid
        self._folder = folder
        self._disk = disk
        self._vault = vault
        self._changed = changed
        self._taken: dict[EnvironmentRef, dict[str, Taken]] = {}
        self._given: dict[EnvironmentRef, Given] = {}
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._informer = Informer(etcd, keys.ingress_prefix(node), stored_pb2.NodeIngress, self._mark)

    def of(self, env: EnvironmentRef) -> Given:
        """What there is for an environment now."""
        found = self._given.get(env)
        if found is None:
            found = self._given[env] = given(self._taken.get(env, {}))
        return found

    def keep(self, env: EnvironmentRef, hosts: Collection[str]) -> None:
        """Drop what etcd has no more, of an environment that has only these ``hosts`` now."""
        for part, taken in list(self._taken.get(env, {}).items()):
            if taken.gone and part not in hosts:
                self._drop(env, part)
                self._mark(self._keys.ingress(self._node, env, part))

    def forget(self, env: EnvironmentRef) -> None:
        """The environment left this node, and what is on disk of it goes."""
        self._taken.pop(env, None)
        self._given.pop(env, None)

    async def load(self) -> None:
        """Take up what is on disk."""
        for (env, part), stored in (await self._disk.run(self._folder.parts)).items():
            if stored.node_uid != self._uid:
                continue
            try:
                self._put(env, part, await self._disk.run(partial(take, stored, None, self._vault)))
            except Exception:  # noqa: BLE001 - it is logged with its traceback, and the agent starts without it
                _log.exception("a part of an ingress on disk could not be taken", env=str(env), part=part)

    async def run(self) -> None:
        """Follow etcd until cancelled; call :meth:`load` first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            await self._informer.synced()
            # What is on disk and was deleted meanwhile.
            for env, parts in self._taken.items():
                for part in parts:
                    self._mark(self._keys.ingress(self._node, env, part))
            while True:
                await self._wake.wait()
                self._wake.clear()
                dirty, self._dirty = self._dirty, {}
                looked = [await self._look(key) for key in dirty]
                for changed in dict.fromkeys(each for each in looked if each is not None):
                    self._changed(changed)

    async def _look(self, key: str) -> EnvironmentRef | None:
        """Take what etcd has at ``key``; the environment if that makes a difference."""
        try:
            _, env, part = self._keys.parse_ingress(key)
        except ValueError:
            _log.warning("a key under this node's ingress names no part of one", key=key)
            return None
        try:
            before = self._taken.get(env, {}).get(part)
            after = await self._next(key, env, part, before)
            if after is not None and after == before:
                return None
            if after is not None:
                self._put(env, part, after)
                self._tell(env, part, after)
            elif before is not None:
                self._drop(env, part)
            await self._save(env, part, before.kept if before is not None else EMPTY, after)
        except Exception:  # noqa: BLE001 - it is logged with its traceback, and the other parts go on
            _log.exception("a part of an ingress could not be taken", key=key)
        return env

    async def _next(self, key: str, env: EnvironmentRef, part: str, before: Taken | None) -> Taken | None:
        """What becomes of a part; None: nothing is left of it."""
        record = self._informer.records.get(key)
        if record is None:
            return left(before)
        if record.message is None:
            return refused(before, str(record.error))
        message = record.message
        if message.node_uid != self._uid:
            return before
        said = (message.node, message.organization, message.project, message.environment, message.part)
        if said != (self._node, env.organization, env.project, env.environment, part):
            return refused(before, f"{key} cannot be used: it says that it is {'/'.join(said)}")
        if before is not None and before.source == message:
            return before
        return await self._disk.run(partial(take, message, before, self._vault))

    async def _save(self, env: EnvironmentRef, part: str, before: stored_pb2.NodeIngress, after: Taken | None) -> None:
        """Have on disk what is used from now on."""
        try:
            if after is None:
                await self._disk.run(partial(self._folder.forget_part, env, part))
            elif after.kept != before:
                await self._disk.run(partial(self._folder.save_part, env, part, after.kept))
        except OSError as error:
            # Serving matters more than remembering.
            _log.error("a part of an ingress could not be kept on disk", env=str(env), part=part, error=str(error))

    def _tell(self, env: EnvironmentRef, part: str, taken: Taken) -> None:
        if taken.problem:
            _log.warning("a part of an ingress cannot be used", env=str(env), part=part, problem=taken.problem)
        serial = taken.certificate.serial if taken.certificate is not None else ""
        _log.info("following a part of an ingress", env=str(env), part=part, certificate=serial, gone=taken.gone)

    def _put(self, env: EnvironmentRef, part: str, taken: Taken) -> None:
        self._taken.setdefault(env, {})[part] = taken
        self._given.pop(env, None)

    def _drop(self, env: EnvironmentRef, part: str) -> None:
        self._taken[env].pop(part)
        if not self._taken[env]:
            del self._taken[env]
        self._given.pop(env, None)

    def _mark(self, key: str) -> None:
        self._dirty[key] = None
        self._wake.set()
