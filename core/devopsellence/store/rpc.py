"""Conversion between ``store.types`` and the protobuf messages of etcd."""

from __future__ import annotations

import re
from typing import Any, Final

from etcd3aio import _protobuf as rpc
from etcd3aio.kv import KVService, prefix_range_end

from devopsellence.store.types import Compare, Delete, KeyValue, Member, Put, WatchEvent

#: Alarm in the status of a member (etcd's AlarmMember, as text).
_ALARM: Final = re.compile(r"alarm:([A-Z]+)")


def key_bytes(key: str) -> bytes:
    return key.encode()


def key_range(name: str) -> tuple[bytes, bytes | None]:
    """Return first key and exclusive end: all keys under ``name`` if ``name`` ends with ``/``, else a single key."""
    return key_bytes(name), prefix_range_end(key_bytes(name)) if name.endswith("/") else None


def key_value(kv: Any) -> KeyValue:
    key = bytes(kv.key).decode(errors="backslashreplace")
    return KeyValue(key, bytes(kv.value), kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def watch_event(event: Any) -> WatchEvent:
    kv = key_value(event.kv)
    return WatchEvent(kv.key, None if event.type == event.DELETE else kv, kv.mod_revision)


def compare_message(compare: Compare) -> Any:
    kwargs = {compare.target: compare.revision}
    return rpc.Compare(
        result=rpc.Compare.EQUAL if compare.equal else rpc.Compare.NOT_EQUAL,
        target=rpc.Compare.CREATE if compare.target == "create_revision" else rpc.Compare.MOD,
        key=key_bytes(compare.key),
        **kwargs,
    )


def operation_message(operation: Put | Delete) -> Any:
    if isinstance(operation, Put):
        return KVService.txn_op_put(key_bytes(operation.key), operation.value, lease=operation.lease)
    return KVService.txn_op_delete(key_bytes(operation.key))


def member(status: Any) -> Member:
    """Convert the response to a Status request; etcd reports the quota since 3.6, the used size since 3.4."""
    alarms = {name for text in status.errors for name in _ALARM.findall(text)} - {"NONE"}
    return Member(
        version=status.version,
        cluster_id=int(status.header.cluster_id),
        alarms=tuple(sorted(alarms)),
        id=int(status.header.member_id),
        leader=int(status.leader),
        size=int(status.dbSize),
        used=int(status.dbSizeInUse),
        quota=int(status.dbSizeQuota),
    )
