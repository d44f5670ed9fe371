"""Whether a record is about what its key says. Pure.

``{}`` parses as any message: an environment without nodes, a node without labels. Taken at its word it would take
everything away, so a record that does not name what its key names counts as one that cannot be read.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import Record

M = TypeVar("M", bound=Message)


def checked_node(record: Record[pb.Node] | None, name: str) -> Record[pb.Node] | None:
    """``record``, as unreadable if it is not the Node ``name``."""
    if record is None or record.message is None or (record.message.name == name and record.message.uid):
        return record
    return _unreadable(record, f"it says that it is node {record.message.name!r} with the uid {record.message.uid!r}")


def checked_environment(record: Record[pb.Environment] | None, ref: EnvironmentRef) -> Record[pb.Environment] | None:
    """``record``, as unreadable if it is not the Environment ``ref``."""
    if record is None or record.message is None:
        return record
    found = record.message
    if (found.organization, found.project, found.environment) == (ref.organization, ref.project, ref.environment):
        return record
    return _unreadable(
        record, f"it says that it is environment '{found.organization}/{found.project}/{found.environment}'"
    )


def checked_secret(
    record: Record[pb.Secret] | None, ref: EnvironmentRef, service: str, name: str
) -> Record[pb.Secret] | None:
    """``record``, as unreadable if it is not that secret, or has no version."""
    if record is None or record.message is None:
        return record
    found = record.message
    said = (found.organization, found.project, found.environment, found.service, found.name)
    if said != (ref.organization, ref.project, ref.environment, service, name):
        return _unreadable(record, f"it says that it is secret '{'/'.join(said)}'")
    return record if found.versions else _unreadable(record, "it has no version")


def checked_certificate(
    record: Record[pb.Certificate] | None, ref: EnvironmentRef, host: str
) -> Record[pb.Certificate] | None:
    """``record``, as unreadable if it is not that certificate."""
    if record is None or record.message is None:
        return record
    found = record.message
    said = (found.organization, found.project, found.environment, found.host)
    if said == (ref.organization, ref.project, ref.environment, host):
        return record
    return _unreadable(record, f"it says that it is certificate '{'/'.join(said)}'")


def _unreadable(record: Record[M], reason: str) -> Record[M]:
    kind = record.message.DESCRIPTOR.name if record.message is not None else ""
    error = MalformedRecord(record.key, kind, reason)
    return Record(record.key, None, error, record.create_revision, record.mod_revision)
