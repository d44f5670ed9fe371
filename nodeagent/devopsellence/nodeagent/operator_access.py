"""Access of operators to this node: their roles and the deny-list, read from etcd, and until then from the disk.

An agent that is cut off from etcd decides by the last state that it knows. Before it knows any, root alone has access.
A record that cannot be read gives its operator no access; a deny-list that cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from devopsellence.access.policy import AccessPolicy
from devopsellence.api.v1.stored_pb2 import AccessCopy, DenyList, OperatorAccess
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.record import message_of

_log = structlog.get_logger()


class OperatorMirror:
    """Access of operators. On the event loop, ``changed`` is called after :attr:`policy` is another."""

    def __init__(self, etcd: Etcd, changed: Callable[[], None]) -> None:
        self._keys = etcd.keys
        self._changed = changed
        self._operators: dict[str, OperatorAccess] = {}
        self._denied = DenyList()
        self.policy = AccessPolicy()
        self._roles = Informer(
            etcd,
            etcd.keys.all_operator_access_prefix,
            OperatorAccess,
            lambda _key: self._use_roles(),
            # Also after a list without any record, which reports no key.
            on_connection=self._use_roles,
        )
        self._denials = Informer(
            etcd, etcd.keys.denied, DenyList, lambda _key: self._use_denied(), on_connection=self._use_denied
        )

    def load(self, copy: AccessCopy) -> None:
        """Use a copy from the disk."""
        self._operators = {access.name: access for access in copy.operators}
        self._denied = copy.denied
        self._decide()

    def save(self, copy: AccessCopy) -> None:
        """Put the present state into a copy for the disk."""
        copy.operators.extend(self._operators[name] for name in sorted(self._operators))
        if self._denied.certificates:
            copy.denied.CopyFrom(self._denied)

    async def run(self) -> None:
        """Follow etcd until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._roles.run())
            group.create_task(self._denials.run())

    def _use_roles(self) -> None:
        if not self._roles.connected:
            return
        prefix = self._keys.all_operator_access_prefix
        known = ((key.removeprefix(prefix), message_of(record)) for key, record in self._roles.records.items())
        operators = {name: access for name, access in known if access is not None and access.name == name}
        if operators != self._operators:
            self._operators = operators
            self._decide()

    def _use_denied(self) -> None:
        if not self._denials.connected:
            return
        record = self._denials.records.get(self._keys.denied)
        if record is not None and record.error is not None:
            _log.warning("the deny-list stays as it was", reason=str(record.error))
            return
        denied = message_of(record) or DenyList()
        if denied != self._denied:
            self._denied = denied
            self._decide()

    def _decide(self) -> None:
        self.policy = AccessPolicy(self._operators, self._denied)
        self._changed()
