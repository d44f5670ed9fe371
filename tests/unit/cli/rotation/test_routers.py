"""Routers that a rotation waits for, by their heartbeats."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat, RouterTls
from devopsellence.cli.rotation.routers import router_problem

BEFORE = Heartbeat(node="n1", router_address="10.0.0.1:7444")
NO_PORT = Heartbeat(node="n1")


def router(authority: str, *trusted: str) -> Heartbeat:
    return Heartbeat(node="n1", router_tls=RouterTls(authority=authority, trusted=trusted))


@pytest.mark.parametrize(
    ("beat", "trusting", "renewed"),
    [
        (router("old", "old"), "does not trust the new CA", "does not trust the new CA"),
        (router("old", "new", "old"), "", "has no certificate of the new CA"),
        (router("", "new", "old"), "", "has no certificate of the new CA"),
        (router("new", "new", "old"), "", ""),
        (router("new", "new"), "", ""),
        (BEFORE, "upgrade it", "upgrade it"),
        (NO_PORT, "", ""),
    ],
    ids=["before", "trusting", "of-no-authority", "renewed", "after", "earlier-version", "no-port"],
)
def test_router_is_waited_for(beat: Heartbeat, trusting: str, renewed: str) -> None:
    for found, expected in (
        (router_problem(beat, "new", renewed=False), trusting),
        (router_problem(beat, "new", renewed=True), renewed),
    ):
        assert found.endswith(expected)
        assert bool(found) == bool(expected)
