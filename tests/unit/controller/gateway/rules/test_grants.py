"""Patterns of keys against ranges of keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsellence.controller.gateway.rules.grants import ANY, NO_END, Grants, KeyPattern, KeyRange, Right, end_of

GRANTS = Grants(
    b"/v1/",
    read=(
        KeyPattern(("nodes", "n1"), tree=False),
        KeyPattern(("status", "n1")),
        KeyPattern(("assignments", ANY, "acme", "shop")),
    ),
)


def under(prefix: bytes) -> KeyRange:
    return KeyRange(prefix, end_of(prefix))


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        (KeyRange(b"/v1/nodes/n1"), True),
        (KeyRange(b"/v1/nodes/n10"), False),
        (KeyRange(b"/v1/nodes/n1/x"), False),
        (KeyRange(b"/v1/nodes/n1", b"/v1/nodes/n1\0"), False),
        (under(b"/v1/nodes/n1/"), False),
        (KeyRange(b"/v1/status/n1/acme"), True),
        (KeyRange(b"/v1/status/n1"), True),
        (KeyRange(b"/v1/status/n10/acme"), False),
        (under(b"/v1/status/n1/"), True),
        (under(b"/v1/status/n1/acme/"), True),
        # A page that begins behind a key, also behind the last one.
        (KeyRange(b"/v1/status/n1/acme/shop\0", end_of(b"/v1/status/n1/")), True),
        (KeyRange(b"/v1/status/n1/a", b"/v1/status/n1/b"), True),
        # Reaching one byte further covers another node.
        (KeyRange(b"/v1/status/n1/", b"/v1/status/n10\0"), False),
        (KeyRange(b"/v1/status/n1", b"/v1/status/n2"), False),
        (KeyRange(b"/v1/status/n1/", NO_END), False),
        (KeyRange(b"\0", NO_END), False),
        (under(b"/v1/status/"), False),
        (under(b"/v1/"), False),
        (under(b"/"), False),
        (KeyRange(b"/v1/assignments/n7/acme/shop/production"), True),
        (KeyRange(b"/v1/assignments//acme/shop/production"), False),
        (under(b"/v1/assignments/n7/acme/shop/"), True),
        (under(b"/v1/assignments/n7/acme/"), False),
        (KeyRange(b"/v2/status/n1/acme"), False),
        (KeyRange(b"/v1"), False),
        (KeyRange(b"/v1/status/n\xff/acme"), False),
    ],
)
def test_range_is_granted_only_as_a_whole(keys: KeyRange, allowed: bool) -> None:
    assert GRANTS.allow(Right.READ, keys) is allowed
    assert not GRANTS.allow(Right.WRITE, keys)


def test_whole_tree_covers_the_prefix_and_nothing_above() -> None:
    grants = Grants(b"/v1/", read=(KeyPattern(()),))
    assert grants.allow(Right.READ, under(b"/v1/"))
    assert grants.allow(Right.READ, KeyRange(b"/v1/anything"))
    assert not grants.allow(Right.READ, KeyRange(b"/v1", end_of(b"/v1/")))
    assert not grants.allow(Right.READ, KeyRange(b"/v2/anything"))


@pytest.mark.parametrize(
    ("keys", "clipped"),
    [
        (KeyRange(b"\0", NO_END), under(b"/v1/")),
        (KeyRange(b"/v1/nodes/a", b"/v3"), KeyRange(b"/v1/nodes/a", end_of(b"/v1/"))),
        (KeyRange(b"/a", b"/v1/nodes/b"), KeyRange(b"/v1/", b"/v1/nodes/b")),
        (under(b"/v2/"), None),
        (KeyRange(b"/v1/x"), KeyRange(b"/v1/x")),
        (KeyRange(b"/x"), None),
    ],
)
def test_range_is_clipped_to_the_prefix(keys: KeyRange, clipped: KeyRange | None) -> None:
    assert keys.clipped(b"/v1/") == clipped


def test_range_that_ends_before_it_begins_is_empty() -> None:
    assert KeyRange(b"b", b"a").is_empty
    assert KeyRange(b"b", b"b").is_empty
    assert not KeyRange(b"b", NO_END).is_empty
    assert not KeyRange(b"b").is_empty


NODE_KEYS = [
    f"/v1/{kind}/{name}{rest}".encode()
    for kind in ("nodes", "status", "assignments", "statusx")
    for name in ("n1", "n10", "n", "n1.x", "n2")
    for rest in ("", "/acme/shop/production", "/acme/shop", "/acme/shopx/production", "/zoo/shop/production")
]
OTHER_KEYS = [b"/v1/", b"/v1", b"/v2/status/n1/x", b"/", b"/v1/status/n1\0", b"/v1/status/n1/\xff\xff"]
BOUNDS = [
    changed
    for key in (*NODE_KEYS, *OTHER_KEYS, b"/v1/status/n1/", b"/v1/assignments/n2/acme/shop/")
    for changed in (key, key + b"\0", key[:-1] + bytes([min(key[-1] + 1, 255)]), key[: key.rfind(b"/") + 1])
    if changed
]


def may_read(key: bytes) -> bool:
    """The same rights as GRANTS, said in another way."""
    parts = key.split(b"/")
    match parts[1:3]:
        case [b"v1", b"nodes"]:
            return parts[3:] == [b"n1"]
        case [b"v1", b"status"]:
            return parts[3] == b"n1" if len(parts) > 3 else False
        case [b"v1", b"assignments"]:
            return len(parts) > 5 and parts[3] != b"" and parts[4:6] == [b"acme", b"shop"]
        case _:
            return False


@given(st.sampled_from(BOUNDS), st.sampled_from([b"", NO_END, *BOUNDS]))
@settings(max_examples=2_000, deadline=None)
def test_granted_range_contains_only_granted_keys(first: bytes, end: bytes) -> None:
    keys = KeyRange(first, end)
    if not keys.is_empty and GRANTS.allow(Right.READ, keys):
        assert [key for key in (*NODE_KEYS, *OTHER_KEYS) if keys.contains(key) and not may_read(key)] == []


@given(st.sampled_from([*NODE_KEYS, *OTHER_KEYS]))
def test_single_key_is_granted_by_its_parts(key: bytes) -> None:
    assert GRANTS.allow_key(Right.READ, key) is may_read(key)
