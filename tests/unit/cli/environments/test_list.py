"""List of environments, with what is left of those without a record."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import Environment
from devopsellence.cli.environments.list import environment_of, listed
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.keys import EnvironmentRef, Keys

KEYS = Keys()
REF = EnvironmentRef("acme", "shop", "review")


@pytest.mark.parametrize(
    "key",
    [
        KEYS.environment(REF),
        KEYS.rollout(REF),
        KEYS.release(REF, 3),
        KEYS.secret(REF, "web", "TOKEN"),
        KEYS.secret(REF, "_registry", "PASSWORD"),
        KEYS.certificate(REF, "shop.example.com"),
        KEYS.assignment("n1", REF),
        KEYS.status("n1", REF),
        KEYS.ingress("n1", REF, "+peers"),
    ],
)
def test_every_kind_of_key_tells_its_environment(key: str) -> None:
    assert environment_of(KEYS, key) == REF


@pytest.mark.parametrize("key", [KEYS.node("n1"), KEYS.operator("ann"), f"{KEYS.prefix}releases/acme"])
def test_other_keys_belong_to_no_environment(key: str) -> None:
    assert environment_of(KEYS, key) is None


def test_environments_without_a_readable_record_are_listed_with_the_reason() -> None:
    stored = Environment(nodes=["n1", "n2", "n3"], latest_release=4, created_at=Timestamp(seconds=1_700_000_000))
    unreadable, gone = EnvironmentRef("acme", "shop", "odd"), EnvironmentRef("acme", "shop", "gone")
    found = listed(
        KEYS,
        {KEYS.environment(REF): stored},
        [UnreadableKey(KEYS.environment(unreadable), "not a readable Environment")],
        [KEYS.release(REF, 4), KEYS.secret(gone, "web", "TOKEN"), KEYS.rollout(gone)],
    )
    now = datetime.fromtimestamp(1_700_000_090, UTC)
    assert [environment.cells(now) for environment in found] == [
        (str(gone), "-", "-", "-", f"has no record, but others are left: devopsellence env delete {gone}"),
        (str(unreadable), "-", "-", "-", "its record cannot be read"),
        (str(REF), "4", "1m30s", "n1\N{EN DASH}n3", ""),
    ]
    assert found[2].document() == {
        "environment": str(REF),
        "latest_release": 4,
        "nodes": ["n1", "n2", "n3"],
        "created_at": "2023-11-14T22:13:20Z",
        "note": "",
    }
