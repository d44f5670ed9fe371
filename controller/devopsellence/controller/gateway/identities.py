"""Identities that the gateway knows: registered machines and operators with access, followed by watches of etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from devopsellence.access.policy import AccessPolicy
from devopsellence.api.v1.stored_pb2 import DenyList, Node, OperatorAccess
from devopsellence.controller.gateway.rules.caller import Caller, identify
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR
from devopsellence.store.informer import Informer
from devopsellence.store.record import message_of

#: Identities whose rights no record holds.
_FIXED: Final = (USER_CONTROLLER, USER_OPERATOR)


class Identities:
    """Callers by certificate. Without an up-to-date cache nobody is admitted whose access a record decides.

    ``on_change`` is called after the access of anybody may have changed.
    """

    def __init__(self, etcd: Etcd, on_change: Callable[[], None]) -> None:
        self._keys = etcd.keys
        self._on_change = on_change
        # Names of the nodes registered with a uid: several only by mistake, and then none of them has access.
        self._nodes_by_uid: dict[str, set[str]] = {}
        self._uid_by_key: dict[str, str] = {}
        self._callers: dict[tuple[str, str], Caller] = {}
        self._nodes = Informer(etcd, self._keys.nodes_prefix, Node, self._node_changed)
        self._access = Informer(etcd, self._keys.all_operator_access_prefix, OperatorAccess, self._access_changed)
        self._denied = Informer(etcd, self._keys.denied, DenyList, self._access_changed)
        self._policy = AccessPolicy()

    @property
    def _informers(self) -> Iterable[Informer[Any]]:
        return self._nodes, self._access, self._denied

    async def run(self) -> None:
        """Follow the records until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())

    async def synced(self) -> None:
        """Return once all records have been read."""
        for informer in self._informers:
            await informer.synced()

    def caller(self, common_names: Sequence[str], serial: str = "") -> Caller:
        """Return the caller with a certificate of ``common_names`` and the serial number ``serial``.

        Raises:
            Refused: the certificate gives no access, or the gateway cannot know at present.
        """
        name = common_names[0] if len(common_names) == 1 else ""
        if name not in _FIXED:
            self.check_current()
        caller = self._callers.get((name, serial))
        if caller is None:
            caller = identify(common_names, serial, self._keys, self.node_with_uid, self._policy)
            self._callers[name, serial] = caller
        return caller

    @property
    def policy(self) -> AccessPolicy:
        """Roles of operators and the deny-list."""
        return self._policy

    def check_current(self) -> None:
        """Check that the records are up to date.

        Raises:
            Refused: they are not, or the deny-list is damaged.
        """
        if problem := self._problem():
            raise Refused(RefusalKind.NOT_NOW, f"the gateway does not know its callers: {problem}")

    def _problem(self) -> str:
        denied = self._denied.records.get(self._keys.denied)
        if denied is not None and denied.error is not None:
            # Else a damaged record would admit those that it denied.
            return str(denied.error)
        return next((informer.problem for informer in self._informers if informer.problem), "")

    def node_with_uid(self, uid: str) -> str:
        """Return the name of the node that is registered with ``uid``; "" for none, or for several."""
        names = self._nodes_by_uid.get(uid, set())
        return next(iter(names)) if len(names) == 1 else ""

    def _node_changed(self, key: str) -> None:
        record = message_of(self._nodes.records.get(key))
        name = key.removeprefix(self._keys.nodes_prefix)
        uid = record.uid if record is not None and record.name == name else ""
        before = self._uid_by_key.pop(key, "")
        if uid:
            self._uid_by_key[key] = uid
        if uid == before:
            return
        if before:
            self._nodes_by_uid[before].discard(name)
        if uid:
            self._nodes_by_uid.setdefault(uid, set()).add(name)
        self._forget()

    def _access_changed(self, _key: str) -> None:
        prefix = self._keys.all_operator_access_prefix
        known = ((key.removeprefix(prefix), message_of(record)) for key, record in self._access.records.items())
        operators = {name: access for name, access in known if access is not None}
        denied = message_of(self._denied.records.get(self._keys.denied))
        self._policy = AccessPolicy(operators, denied or DenyList())
        self._forget()

    def _forget(self) -> None:
        self._callers.clear()
        self._on_change()
