"""Encoding of messages as etcd values: proto3 JSON on one line, with the field names of the .proto files.

The output of ``etcdctl get --prefix`` is therefore readable, and works with ``jq``.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from devopsellence.store.errors import MalformedRecord
from devopsellence.store.size import RecordTooLarge, bounded

M = TypeVar("M", bound=Message)
_REASON_CHARACTERS: Final = 500


def encode(message: Message) -> bytes:
    """Encode ``message`` as a value for etcd: equal messages give equal bytes.

    Keys are sorted, because the order of a map field differs between messages and processes.
    """
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None, sort_keys=True).encode()


def decode(kind: type[M], key: str, value: bytes) -> M:
    """Decode ``value`` as a message of type ``kind``; fields unknown to this version are ignored, reports are bounded.

    Raises:
        MalformedRecord: ``value`` is not such a message; the error names ``key`` and the reason.
    """
    try:
        return bounded(parse(kind, key, value))
    except RecordTooLarge as error:
        raise MalformedRecord(key, kind.DESCRIPTOR.name, str(error)[:_REASON_CHARACTERS]) from error


def parse(kind: type[M], key: str, value: bytes) -> M:
    """Decode ``value`` as :func:`decode` does, without a bound on reports.

    Raises:
        MalformedRecord: ``value`` is not such a message.
    """
    # Parse would take a list or a string for an empty message.
    if not value.lstrip(b" \t\r\n").startswith(b"{"):
        raise MalformedRecord(key, kind.DESCRIPTOR.name, "it is not a JSON object")
    try:
        return json_format.Parse(value.decode(), kind(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        # The reason may quote the value.
        raise MalformedRecord(key, kind.DESCRIPTOR.name, str(error)[:_REASON_CHARACTERS]) from error
