"""Messages to values and back: proto3 JSON on one line, with the field names of the .proto files.

``etcdctl get --prefix`` therefore reads like a document, and ``etcdctl get … | jq`` works on it.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from devopsellence.store.errors import MalformedRecord

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The value that stands for ``message`` in etcd: the same bytes for equal messages.

    That takes sorted keys: the order of a map differs from message to message and from process to process.
    """
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None, sort_keys=True).encode()


def decode(kind: type[M], key: str, value: bytes) -> M:
    """The message that ``value`` stands for; fields that this version does not know are ignored.

    Raises:
        MalformedRecord: it is not such a message; names the key and what is wrong with it.
    """
    # Parse would take a list or a string for an empty message.
    if not value.lstrip(b" \t\r\n").startswith(b"{"):
        raise MalformedRecord(key, kind.DESCRIPTOR.name, "it is not a JSON object")
    try:
        return json_format.Parse(value.decode(), kind(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecord(key, kind.DESCRIPTOR.name, str(error)) from error
