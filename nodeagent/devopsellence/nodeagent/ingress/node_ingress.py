"""Mirror of the node's ingress parts: certificates, challenges, key requests and peers, from etcd by way of the disk.

The copy on disk is in use while etcd cannot be read. "Cannot be read" is not "empty", as with assignments: a malformed
message, an undecryptable key or a message for another machine changes nothing. A certificate deleted in etcd stays in
use for as long as the assignment has the host; challenges, key requests and peers go when deleted. Decrypted private
keys are in memory only.

Parts that change together are processed together, by a single run of the cryptography process (``crypto_worker``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final, TypeAlias

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.ingress.crypto_worker import CryptoWorker
from devopsellence.nodeagent.ingress.dns import PeerResolver, with_peer_addresses
from devopsellence.nodeagent.ingress.node_ingress_state import (
    EMPTY_PART,
    PartInput,
    PartState,
    ingress_inputs,
    next_state,
    read_part,
    state_when_deleted,
    state_when_unusable,
)
from devopsellence.nodeagent.ingress.routing import IngressInputs
from devopsellence.nodeagent.mirror import EtcdMirror, NodeContext
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.store.keys import PEERS, EnvironmentRef

#: Pause before a failed cryptographic task is retried.
RETRY_SECONDS: Final = 30.0
#: Environment and part: a host, or ``PEERS``.
_PartKey: TypeAlias = tuple[EnvironmentRef, str]
_log = structlog.get_logger()


class NodeIngressMirror(EtcdMirror[stored_pb2.NodeIngress]):
    """Ingress parts of one node. ``changed(ref)`` is called on the loop when an environment's inputs change."""

    def __init__(
        self, context: NodeContext, decrypter: SecretDecrypter, changed: Callable[[EnvironmentRef], None]
    ) -> None:
        super().__init__(context, context.etcd.keys.ingress_prefix(context.node), stored_pb2.NodeIngress, changed)
        self._decrypter = decrypter
        self._worker = CryptoWorker()
        self._resolver = PeerResolver(self._addresses_changed)
        self._parts: dict[EnvironmentRef, dict[str, PartState]] = {}
        self._inputs: dict[EnvironmentRef, IngressInputs] = {}
        #: Environments with an unreadable part on disk; empty once etcd was read.
        self._unreadable: set[EnvironmentRef] = set()
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()

    def inputs(self, ref: EnvironmentRef) -> IngressInputs:
        """Return the inputs of an environment."""
        inputs = self._inputs.get(ref)
        if inputs is None:
            inputs = self._inputs[ref] = with_peer_addresses(ingress_inputs(self._parts.get(ref, {})), self._resolver)
        return inputs

    def is_incomplete(self, ref: EnvironmentRef) -> bool:
        """Return whether a part of an environment on disk cannot be read, and etcd has not been read yet."""
        return ref in self._unreadable

    def prune(self, ref: EnvironmentRef, hosts: Collection[str]) -> None:
        """Drop parts deleted in etcd, except for ``hosts``: the hosts in the environment's assignment."""
        for part, state in list(self._parts.get(ref, {}).items()):
            if state.deleted and part not in hosts:
                self._drop(ref, part)
                self._on_key(self._keys.ingress(self._context.node, ref, part))

    def forget(self, ref: EnvironmentRef) -> None:
        """Forget an environment that left this node; the caller removes its files."""
        self._parts.pop(ref, None)
        self._inputs.pop(ref, None)
        self._update_resolver()

    async def load(self) -> None:
        """Load the parts on disk."""
        stored = await self._context.disk.run(self._context.folder.parts)
        self._unreadable = set(self._context.folder.unreadable_parts)
        mine = {key: message for key, message in stored.items() if message.node_uid == self._context.node_uid}
        for key, state in (await self._process(mine, on_disk=True)).items():
            self._put(*key, state)
        await self._resolver.resolve_once()

    async def run(self) -> None:
        """Follow etcd until cancelled; call :meth:`load` first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resolver.run())
            group.create_task(self._informer.run())
            await self._informer.synced()
            self._wake.set()
            # Parts on disk may have been deleted in etcd meanwhile.
            for ref, parts in self._parts.items():
                for part in parts:
                    self._on_key(self._keys.ingress(self._context.node, ref, part))
            while True:
                await self._wake.wait()
                self._wake.clear()
                dirty, self._dirty = self._dirty, {}
                changes = [ref async for ref in self._follow(dirty)]
                # The first pass has everything that is in etcd.
                unreadable, self._unreadable = self._unreadable, set()
                for changed in dict.fromkeys([*changes, *unreadable]):
                    self._changed(changed)

    async def _follow(self, dirty: Iterable[str]) -> AsyncIterator[EnvironmentRef]:
        """Process the messages at these keys; yield the environments with changed inputs."""
        nexts: dict[_PartKey, PartState | stored_pb2.NodeIngress | None] = {}
        for key in dirty:
            try:
                _, ref, part = self._keys.parse_ingress(key)
            except ValueError:
                _log.warning("unexpected key under this node's ingress prefix", key=key)
                continue
            nexts[ref, part] = self._next(key, ref, part)
        messages = {part_key: value for part_key, value in nexts.items() if isinstance(value, stored_pb2.NodeIngress)}
        states = await self._process(messages)
        for part_key, value in nexts.items():
            after = (
                states.get(part_key, self._before(*part_key)) if isinstance(value, stored_pb2.NodeIngress) else value
            )
            if await self._apply(*part_key, after):
                yield part_key[0]

    def _next(self, key: str, ref: EnvironmentRef, part: str) -> PartState | stored_pb2.NodeIngress | None:
        """Return the next state of a part, or a message still to be processed; None drops the part."""
        before, record = self._before(ref, part), self._informer.records.get(key)
        if record is None:
            return state_when_deleted(before)
        if record.message is None:
            return state_when_unusable(before, str(record.error))
        message = record.message
        if message.node_uid != self._context.node_uid:
            return before
        location = (message.node, message.organization, message.project, message.environment, message.part)
        if location != (self._context.node, ref.organization, ref.project, ref.environment, part):
            return state_when_unusable(before, f"{key} cannot be used: its content is for {'/'.join(location)}")
        if before is not None and before.source == message and not before.retry:
            return before
        return message

    async def _process(
        self, messages: Mapping[_PartKey, stored_pb2.NodeIngress], *, on_disk: bool = False
    ) -> dict[_PartKey, PartState]:
        """Return the next states of the parts with these messages."""
        inputs: dict[_PartKey, PartInput] = {}
        for key, message in messages.items():
            try:
                inputs[key] = await self._context.disk.run(
                    partial(read_part, message, self._before(*key), self._decrypter)
                )
            except Exception:  # noqa: BLE001 - logged with its traceback; the remaining parts go on
                _log.exception("an ingress part could not be processed", env=str(key[0]), part=key[1])
        results = await self._worker.run_tasks([part_input.task for part_input in inputs.values()])
        states = {
            key: next_state(part_input, self._before(*key), result, on_disk=on_disk)
            for (key, part_input), result in zip(inputs.items(), results, strict=True)
        }
        for (ref, part), state in states.items():
            if state.retry:
                loop = asyncio.get_running_loop()
                loop.call_later(RETRY_SECONDS, self._on_key, self._keys.ingress(self._context.node, ref, part))
        return states

    async def _apply(self, ref: EnvironmentRef, part: str, after: PartState | None) -> bool:
        """Make ``after`` the state of a part (None: drop the part); return whether the state changed."""
        before = self._before(ref, part)
        if after is not None and after == before:
            return False
        if after is not None:
            self._put(ref, part, after)
            self._log_change(ref, part, after)
        elif before is not None:
            self._drop(ref, part)
        await self._save_part(ref, part, before.stored if before is not None else EMPTY_PART, after)
        return True

    def _before(self, ref: EnvironmentRef, part: str) -> PartState | None:
        return self._parts.get(ref, {}).get(part)

    async def _save_part(
        self, ref: EnvironmentRef, part: str, before: stored_pb2.NodeIngress, after: PartState | None
    ) -> None:
        """Write the part's new state to disk."""
        folder = self._context.folder
        if after is None:
            write = partial(folder.forget_part, ref, part)
        elif after.stored != before:
            write = partial(folder.save_part, ref, part, after.stored)
        else:
            return
        await self._try_save(write, "an ingress part could not be written to disk", env=str(ref), part=part)

    def _log_change(self, ref: EnvironmentRef, part: str, state: PartState) -> None:
        if state.problem:
            _log.warning("an ingress part cannot be used", env=str(ref), part=part, problem=state.problem)
        serial = state.certificate.serial if state.certificate is not None else ""
        _log.info("ingress part updated", env=str(ref), part=part, certificate=serial, deleted=state.deleted)

    def _put(self, ref: EnvironmentRef, part: str, state: PartState) -> None:
        self._parts.setdefault(ref, {})[part] = state
        self._inputs.pop(ref, None)
        if part == PEERS:
            self._update_resolver()

    def _drop(self, ref: EnvironmentRef, part: str) -> None:
        self._parts[ref].pop(part)
        if not self._parts[ref]:
            del self._parts[ref]
        self._inputs.pop(ref, None)
        if part == PEERS:
            self._update_resolver()

    def _update_resolver(self) -> None:
        peers = [ingress_inputs({PEERS: parts[PEERS]}).peers for parts in self._parts.values() if PEERS in parts]
        self._resolver.set_hosts(peer.address for group in peers for peer in group)

    def _addresses_changed(self) -> None:
        for ref in [ref for ref, parts in self._parts.items() if PEERS in parts]:
            before = self._inputs.pop(ref, None)
            if self.inputs(ref) != before:
                self._changed(ref)

    def _on_key(self, key: str) -> None:
        self._dirty[key] = None
        self._wake.set()
