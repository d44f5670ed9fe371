"""Validation of records: the names in a record must agree with its key. Pure.

``{}`` parses as any message: an environment without nodes, a node without labels. Such a record would remove
everything, so a record whose names differ from its key counts as unreadable.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import EnvironmentRef, InvalidName
from devopsellence.store.record import Record, message_of

M = TypeVar("M", bound=Message)


def checked_node(record: Record[pb.Node] | None, name: str) -> Record[pb.Node] | None:
    """Return ``record``, unreadable unless it is the Node ``name``."""
    if record is None or record.message is None or (record.message.name == name and record.message.uid):
        return record
    return _unreadable(record, f"it says that it is node {record.message.name!r} with the uid {record.message.uid!r}")


def checked_environment(record: Record[pb.Environment] | None, ref: EnvironmentRef) -> Record[pb.Environment] | None:
    """Return ``record``, unreadable unless it is the Environment ``ref``."""
    if record is None or record.message is None:
        return record
    message = record.message
    if (message.organization, message.project, message.environment) == (ref.organization, ref.project, ref.environment):
        return record
    return _unreadable(
        record, f"it says that it is environment '{message.organization}/{message.project}/{message.environment}'"
    )


def checked_secret(
    record: Record[pb.Secret] | None, ref: EnvironmentRef, service: str, name: str
) -> Record[pb.Secret] | None:
    """Return ``record``, unreadable unless it is that secret and has a version."""
    if record is None or record.message is None:
        return record
    message = record.message
    names = (message.organization, message.project, message.environment, message.service, message.name)
    if names != (ref.organization, ref.project, ref.environment, service, name):
        return _unreadable(record, f"it says that it is secret '{'/'.join(names)}'")
    return record if message.versions else _unreadable(record, "it has no version")


def checked_certificate(
    record: Record[pb.Certificate] | None, ref: EnvironmentRef, host: str
) -> Record[pb.Certificate] | None:
    """Return ``record``, unreadable unless it is that certificate."""
    if record is None or record.message is None:
        return record
    message = record.message
    names = (message.organization, message.project, message.environment, message.host)
    if names == (ref.organization, ref.project, ref.environment, host):
        return record
    return _unreadable(record, f"it says that it is certificate '{'/'.join(names)}'")


def checked_claim(record: Record[pb.HostClaim] | None, node: str, host: str) -> Record[pb.HostClaim] | None:
    """Return ``record``, as unreadable if it names another node or host, or no environment."""
    message = message_of(record)
    if record is None or message is None:
        return record
    if (message.node, message.host) != (node, host):
        return _unreadable(record, f"it says that it is the claim of '{message.host}' on node '{message.node}'")
    try:
        EnvironmentRef(message.organization, message.project, message.environment)
    except InvalidName as error:
        return _unreadable(record, str(error))
    return record


def _unreadable(record: Record[M], reason: str) -> Record[M]:
    kind = record.message.DESCRIPTOR.name if record.message is not None else ""
    error = MalformedRecord(record.key, kind, reason)
    return Record(record.key, None, error, record.create_revision, record.mod_revision)
