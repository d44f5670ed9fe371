"""Size of records: a record too large for etcd is refused before the write, a report is cut. Pure.

Desired state is never cut: :func:`check_writes` refuses a write with the record that is too large, by how much, and the
largest parts of the record. Reports (:data:`REPORT_BYTES`) come from nodes, so their texts are of any length:
:func:`bounded` cuts reports where they are made, and again where they are read, because a node can be hostile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from devopsellence.store.errors import Rejected

M = TypeVar("M", bound=Message)

_KIB: Final = 1024
#: Default limit of etcd for one request (``--max-request-bytes``, https://etcd.io/docs/v3.6/dev-guide/limit/).
MAX_REQUEST_BYTES: Final = 1536 * _KIB
#: Limit of a value; leaves room for the other operations, keys and conditions of the request.
MAX_RECORD_BYTES: Final = 1408 * _KIB
#: Bytes that an assignment still gets for a single node: names, uid, generation, addresses of image peers.
NODE_ROOM: Final = 4 * _KIB
#: Limits of encoded reports by message type, in bytes. All other records are refused at :data:`MAX_RECORD_BYTES`.
REPORT_BYTES: Final[Mapping[str, int]] = {
    "AssignmentStatus": 1280 * _KIB,
    "Rollout": 1280 * _KIB,
    "Heartbeat": 64 * _KIB,
    "Event": 64 * _KIB,
    "Candidate": 64 * _KIB,
}
#: Longest text in a report, in characters.
TEXT_CHARACTERS: Final = 4000
# Fields of reports with text for people. All other strings identify something and are never cut.
_TEXTS: Final = frozenset(
    {
        *("reason", "message", "problem", "folder_problem", "halted", "first_failure", "log_lines"),
        *("hostname", "agent_version", "docker_version", "identity"),
    }
)
# Lengths tried one after another until the report is small enough; 0 drops the texts.
_LENGTHS: Final = (TEXT_CHARACTERS, 1000, 250, 60, 0)
_CUT: Final = "…"
# A character takes at most 6 bytes as JSON, a field of one byte at most some 24 with its name.
_JSON_FACTOR: Final = 24
# Of a request besides the value: per operation, and in total.
_OPERATION_BYTES: Final = 64
_REQUEST_ROOM: Final = 8 * _KIB
# A part smaller than this share of the record is not worth a name.
_SHARE: Final = 0.1
_NAMED: Final = 3
# Fields that name an element of a list, the first present one counts.
_NAMES: Final = ("name", "host", "node", "instance", "id", "version", "release")


class RecordTooLarge(Rejected):
    """Record larger than etcd takes. ``size`` and ``limit`` in bytes, ``parts`` a clause about the largest parts."""

    def __init__(self, key: str, size: int, limit: int, parts: str) -> None:
        super().__init__(f"{key} is too large: {too_much(size, limit)}{f'; most of it is {parts}' if parts else ''}")
        self.key = key
        self.size = size
        self.limit = limit
        self.parts = parts


def too_much(size: int, limit: int) -> str:
    """Return a clause with the size, the limit and the difference."""
    return f"{_kib(size)}, {_kib(max(size - limit, _KIB))} more than the {_kib(limit)} that etcd takes"


def check_writes(writes: Iterable[tuple[str, bytes]]) -> None:
    """Check the keys and values of one request.

    Raises:
        RecordTooLarge: etcd would refuse the request, by its default limit.
    """
    writes = list(writes)
    for key, value in writes:
        if len(value) > MAX_RECORD_BYTES:
            raise RecordTooLarge(key, len(value), MAX_RECORD_BYTES, describe_parts(value))
    total = sum(len(key) + len(value) + _OPERATION_BYTES for key, value in writes)
    room = MAX_REQUEST_BYTES - _REQUEST_ROOM
    if total > room:
        key, value = max(writes, key=lambda write: len(write[1]))
        raise RecordTooLarge(key, len(value), max(0, room - (total - len(value))), describe_parts(value))


def size_problem(record: Message, *, room: int = 0) -> str:
    """Return a clause that says by how much ``record`` is too large and because of what; "" if etcd takes it.

    ``room``: bytes that may still be added.
    """
    limit = MAX_RECORD_BYTES - room
    if record.ByteSize() * _JSON_FACTOR <= limit:
        return ""
    value = _json(record)
    if len(value) <= limit:
        return ""
    parts = describe_parts(value)
    return f"{too_much(len(value), limit)}{f'; most of it is {parts}' if parts else ''}"


def describe_parts(value: bytes) -> str:
    """Return a clause with the largest parts of an encoded record: ``services web env (1200 KiB), secrets (90 KiB)``.

    Only names and sizes: values may be confidential. Empty if ``value`` is no JSON object.
    """
    try:
        document = json.loads(value)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    total = len(value)
    parts = sorted(_parts("", document, total, total * _SHARE), key=lambda part: -part[1])
    return ", ".join(f"{label} ({_kib(size)})" for label, size in parts[:_NAMED] if label)


def bounded(report: M) -> M:
    """Return ``report`` itself if it is small enough, else a copy with long texts cut, and if need be long lists.

    The result is at most :data:`REPORT_BYTES` as JSON, and is not cut again. A message of another type is returned as
    it is.

    Raises:
        RecordTooLarge: names and ids alone are larger than that, which no program of this project writes.
    """
    limit = REPORT_BYTES.get(report.DESCRIPTOR.name)
    size = report.ByteSize()
    # So small a report has no long text, and is below every limit.
    if limit is None or (size * _JSON_FACTOR <= limit and size <= TEXT_CHARACTERS):
        return report
    for length in _LENGTHS:
        report = _with_texts_of(report, length)
        if _fits(report, limit):
            return report
    return _with_fewer_elements(report, limit)


def _fits(message: Message, limit: int) -> bool:
    return message.ByteSize() * _JSON_FACTOR <= limit or len(_json(message)) <= limit


def _json(message: Message) -> bytes:
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()


def _with_texts_of(message: M, length: int) -> M:
    """Return ``message``, or a copy with all texts cut to ``length`` characters."""
    if not any(len(text) > length for text in _texts(message)):
        return message
    copy = type(message)()
    copy.CopyFrom(message)
    _cut_texts(copy, length)
    return copy


def _texts(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in _elements(field, value):
                yield from _texts(child)
        elif field.name in _TEXTS and field.type == FieldDescriptor.TYPE_STRING:
            yield from _elements(field, value)


def _cut_texts(message: Message, length: int) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in _elements(field, value):
                _cut_texts(child, length)
        elif field.name in _TEXTS and field.type == FieldDescriptor.TYPE_STRING:
            if length == 0:
                message.ClearField(field.name)
            elif _is_list(field):
                value[:] = [_cut(text, length) for text in value]
            else:
                setattr(message, field.name, _cut(value, length))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT


def _with_fewer_elements(report: M, limit: int) -> M:
    """Return a copy without the last elements of the longest lists."""
    copy = type(report)()
    copy.CopyFrom(report)
    while not _fits(copy, limit):
        lists = list(_lists(copy))
        if not lists:
            raise RecordTooLarge(report.DESCRIPTOR.name, len(_json(copy)), limit, describe_parts(_json(copy)))
        longest = max(lists, key=lambda elements: sum(map(_weight, elements)))
        del longest[len(longest) // 2 :]
    return copy


def _lists(message: Message) -> Iterator[Any]:
    """Yield the lists of ``message`` and of the single messages in it."""
    for field, value in message.ListFields():
        if _is_list(field):
            yield value
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _lists(value)


def _weight(element: Any) -> int:
    return element.ByteSize() if isinstance(element, Message) else len(str(element))


def _is_list(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _elements(field: FieldDescriptor, value: Any) -> Iterable[Any]:
    if not _is_list(field):
        return (value,)
    return value.values() if isinstance(value, Mapping) else value


def _parts(label: str, node: Any, size: int, least: float) -> Iterator[tuple[str, int]]:
    """Yield the parts of a JSON value: ``node`` itself, or its children if a few of them make up most of it."""
    if isinstance(node, dict):
        children = [(_labelled(label, name), child) for name, child in node.items()]
    elif isinstance(node, list):
        children = [(_labelled(label, _name_of(child)), child) for child in node if isinstance(child, dict)]
    else:
        children = []
    sized = [(name, child, len(json.dumps(child))) for name, child in children]
    large = [entry for entry in sized if entry[2] >= least]
    if sum(entry[2] for entry in large) < size / 2:
        yield label, size
        return
    for name, child, length in large:
        yield from _parts(name, child, length, least)


def _labelled(label: str, name: str) -> str:
    return f"{label} {name}".strip()


def _name_of(element: Mapping[str, Any]) -> str:
    names = [str(element[name]) for name in _NAMES if name in element][:1]
    return " ".join([*names, *([f"of {element['service']}"] if "service" in element else [])])


def _kib(size: int) -> str:
    return f"{-(-size // _KIB)} KiB"
