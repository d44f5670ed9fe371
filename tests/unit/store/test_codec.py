"""Messages to values and back."""

from __future__ import annotations

import json

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord


def test_encoded_value_is_readable_json() -> None:
    node = stored_pb2.Node(name="n1", labels=["web", "worker"], cordoned=True)
    value = encode(node)
    assert json.loads(value) == {"name": "n1", "labels": ["web", "worker"], "cordoned": True}
    assert b"\n" not in value
    assert decode(stored_pb2.Node, "/k", value) == node


def test_equal_messages_have_equal_bytes() -> None:
    names = [f"K{number}" for number in range(50)]
    forwards = workload_pb2.Service(env=dict.fromkeys(names, "x"))
    backwards = workload_pb2.Service(env=dict.fromkeys(reversed(names), "x"))
    assert encode(forwards) == encode(backwards)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode(stored_pb2.Node, "/k", b'{"name": "n1", "colour": "red"}') == stored_pb2.Node(name="n1")


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"null", b"[]", b"{", b'"n1"', b"\xff", b"[" * 5000),
        *(b'{"labels": 5}', b'{"cordoned": "perhaps"}', b'{"name": "\\ud800"}', b'{"name": "a", "name": "b"}'),
        *(b'{"registered_at": 1e999}', b'{"registered_at": "no"}'),
    ],
)
def test_undecodable_record_names_its_key(value: bytes) -> None:
    with pytest.raises(MalformedRecord, match="/k does not hold a readable Node"):
        decode(stored_pb2.Node, "/k", value)


FIELDS = sorted({name for kind in (stored_pb2.Node, stored_pb2.Assignment) for name in kind.DESCRIPTOR.fields_by_name})
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1e999", "NaN", "2026"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner), max_leaves=8
)


# How fast a machine draws examples says nothing about the records.
@settings(max_examples=30)
@given(value=st.dictionaries(st.sampled_from(FIELDS), VALUES).map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("kind", [stored_pb2.Node, stored_pb2.Assignment])
def test_arbitrary_bytes_raise_only_malformed(kind: type[Message], value: bytes) -> None:
    try:
        assert isinstance(decode(kind, "/k", value), kind)
    except MalformedRecord as error:
        assert error.key == "/k"  # noqa: PT017 - either outcome is fine
