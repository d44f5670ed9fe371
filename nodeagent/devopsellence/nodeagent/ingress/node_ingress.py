"""What the controller sends about ingress besides assignments: read from etcd, kept on disk, and used from there when
etcd cannot be read.

"Cannot read" is not "empty", as with assignments: what is malformed, cannot be opened or is meant for another machine
changes nothing. A certificate whose key has gone from etcd is served on for as long as the assignment names its host;
challenges, requests for a key and other nodes' routers go with theirs. Private keys are in the clear in memory only.

What has changed at one time is taken together, so that one process (``aside``) does for all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final, TypeAlias

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.ingress.crypto_worker import Aside
from devopsellence.nodeagent.ingress.dns import Names, resolved
from devopsellence.nodeagent.ingress.node_ingress_state import EMPTY, Opened, Taken, given, left, opened, refused, take
from devopsellence.nodeagent.ingress.site import Given
from devopsellence.nodeagent.secrets import Vault
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import Pool
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.keys import PEERS, EnvironmentRef, Keys

#: After this long it is asked again what could not be found out.
AGAIN_SECONDS: Final = 30.0
_Place: TypeAlias = tuple[EnvironmentRef, str]
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
        self._aside = Aside()
        self._names = Names(self._addresses_changed)
        self._taken: dict[EnvironmentRef, dict[str, Taken]] = {}
        self._given: dict[EnvironmentRef, Given] = {}
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._informer = Informer(etcd, keys.ingress_prefix(node), stored_pb2.NodeIngress, self._mark)

    def of(self, env: EnvironmentRef) -> Given:
        """What there is for an environment now."""
        found = self._given.get(env)
        if found is None:
            found = self._given[env] = resolved(given(self._taken.get(env, {})), self._names)
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
        self._want_names()

    async def load(self) -> None:
        """Take up what is on disk."""
        stored = await self._disk.run(self._folder.parts)
        mine = {place: each for place, each in stored.items() if each.node_uid == self._uid}
        for place, taken in (await self._take(mine, on_disk=True)).items():
            self._put(*place, taken)
        await self._names.first()

    async def run(self) -> None:
        """Follow etcd until cancelled; call :meth:`load` first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._names.run())
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
                for changed in dict.fromkeys([env async for env in self._follow(dirty)]):
                    self._changed(changed)

    async def _follow(self, dirty: Iterable[str]) -> AsyncIterator[EnvironmentRef]:
        """Take what etcd has at these keys; the environments to which that makes a difference."""
        nexts: dict[_Place, Taken | stored_pb2.NodeIngress | None] = {}
        for key in dirty:
            try:
                _, env, part = self._keys.parse_ingress(key)
            except ValueError:
                _log.warning("a key under this node's ingress names no part of one", key=key)
                continue
            nexts[env, part] = self._next(key, env, part)
        fresh = {place: each for place, each in nexts.items() if isinstance(each, stored_pb2.NodeIngress)}
        taken = await self._take(fresh)
        for place, each in nexts.items():
            after = taken.get(place, self._before(*place)) if isinstance(each, stored_pb2.NodeIngress) else each
            if await self._become(*place, after):
                yield place[0]

    def _next(self, key: str, env: EnvironmentRef, part: str) -> Taken | stored_pb2.NodeIngress | None:
        """What becomes of a part: a message is yet to be taken, None: nothing is left of it."""
        before, record = self._before(env, part), self._informer.records.get(key)
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
        if before is not None and before.source == message and not before.again:
            return before
        return message

    async def _take(
        self, messages: Mapping[_Place, stored_pb2.NodeIngress], *, on_disk: bool = False
    ) -> dict[_Place, Taken]:
        """These parts as they are used from now on."""
        found: dict[_Place, Opened] = {}
        for place, message in messages.items():
            try:
                found[place] = await self._disk.run(partial(opened, message, self._before(*place), self._vault))
            except Exception:  # noqa: BLE001 - it is logged with its traceback, and the other parts go on
                _log.exception("a part of an ingress could not be taken", env=str(place[0]), part=place[1])
        answers = await self._aside.ask([each.question for each in found.values()])
        taken = {
            place: take(each, self._before(*place), answer, on_disk=on_disk)
            for (place, each), answer in zip(found.items(), answers, strict=True)
        }
        for (env, part), each in taken.items():
            if each.again:
                loop = asyncio.get_running_loop()
                loop.call_later(AGAIN_SECONDS, self._mark, self._keys.ingress(self._node, env, part))
        return taken

    async def _become(self, env: EnvironmentRef, part: str, after: Taken | None) -> bool:
        """Have a part used as ``after``, None: not at all; whether that makes a difference."""
        before = self._before(env, part)
        if after is not None and after == before:
            return False
        if after is not None:
            self._put(env, part, after)
            self._tell(env, part, after)
        elif before is not None:
            self._drop(env, part)
        await self._save(env, part, before.kept if before is not None else EMPTY, after)
        return True

    def _before(self, env: EnvironmentRef, part: str) -> Taken | None:
        return self._taken.get(env, {}).get(part)

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
        if part == PEERS:
            self._want_names()

    def _drop(self, env: EnvironmentRef, part: str) -> None:
        self._taken[env].pop(part)
        if not self._taken[env]:
            del self._taken[env]
        self._given.pop(env, None)
        if part == PEERS:
            self._want_names()

    def _want_names(self) -> None:
        peers = [given({PEERS: parts[PEERS]}).peers for parts in self._taken.values() if PEERS in parts]
        self._names.want(peer.address for each in peers for peer in each)

    def _addresses_changed(self) -> None:
        for env in [env for env, parts in self._taken.items() if PEERS in parts]:
            before = self._given.pop(env, None)
            if self.of(env) != before:
                self._changed(env)

    def _mark(self, key: str) -> None:
        self._dirty[key] = None
        self._wake.set()
