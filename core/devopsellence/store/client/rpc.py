"""Conversion between ``store.types`` and etcd's messages."""

from __future__ import annotations

import re
from typing import Final

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.types import Compare, Delete, KeyValue, Member, Put, WatchEvent

#: Alarm in the status of a member (etcd's AlarmMember, as text).
_ALARM: Final = re.compile(r"alarm:([A-Z]+)")


def key_bytes(key: str) -> bytes:
    return key.encode()


def key_range(name: str) -> tuple[bytes, bytes]:
    """Return first key and exclusive end: all keys under ``name`` if ``name`` ends with ``/``, else a single key.

    The end is empty for a single key, as in etcd's API.
    """
    first = key_bytes(name)
    # The end of a prefix is the prefix with its last byte raised by one.
    return first, first[:-1] + bytes([first[-1] + 1]) if name.endswith("/") else b""


def key_value(kv: rpc.KeyValue) -> KeyValue:
    key = bytes(kv.key).decode(errors="backslashreplace")
    return KeyValue(key, bytes(kv.value), kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def watch_event(event: rpc.Event) -> WatchEvent:
    kv = key_value(event.kv)
    return WatchEvent(kv.key, None if event.type == rpc.Event.DELETE else kv, kv.mod_revision)


def compare_message(compare: Compare) -> rpc.Compare:
    created = compare.target == "create_revision"
    message = rpc.Compare(
        result=rpc.Compare.EQUAL if compare.equal else rpc.Compare.NOT_EQUAL,
        target=rpc.Compare.CREATE if created else rpc.Compare.MOD,
        key=key_bytes(compare.key),
    )
    if created:
        message.create_revision = compare.revision
    else:
        message.mod_revision = compare.revision
    return message


def operation_message(operation: Put | Delete) -> rpc.RequestOp:
    if isinstance(operation, Put):
        put = rpc.PutRequest(key=key_bytes(operation.key), value=operation.value, lease=operation.lease)
        return rpc.RequestOp(request_put=put)
    first, end = key_range(operation.key)
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=first, range_end=end))


def member(status: rpc.StatusResponse) -> Member:
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
