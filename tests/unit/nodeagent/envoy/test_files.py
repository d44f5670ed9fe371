"""Snapshots of routing configuration and endpoints on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.clock import Now
from devopsellence.nodeagent.envoy import files
from devopsellence.nodeagent.envoy.endpoints import EndpointKey, TrackedEndpoint, update
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Route, RouterPeer, RoutingConfig
from devopsellence.store.keys import EnvironmentRef
from tests.support.host_certificates import tls_certificate

REF = EnvironmentRef("acme", "shop", "production")
CONFIG = RoutingConfig(
    REF,
    ("a.example", "b.example"),
    (Route("a.example", "/", "web", "http"), Route("b.example", "/", "web", "http")),
    (Backend("web", "http", (Endpoint("one", "10.0.0.2", 3000),)),),
    tls=True,
    redirect=True,
    certificates={"a.example": tls_certificate()},
    challenges={"b.example": (("token", "answer"),)},
    peers=(RouterPeer("n2", "x.node.devopsellence.internal", "10.9.0.2", 7444),),
    drain_seconds=12.5,
    forwarders=("y.node.devopsellence.internal",),
)


def test_snapshot_is_restored_on_another_clock() -> None:
    tracked = update(update({}, REF, CONFIG, 12.5, 0.0), REF, replace(CONFIG, backends=()), 12.5, 100.0)
    stored = files.snapshot_to_bytes(REF, CONFIG, tracked, Now(100.0, 5000.0))
    ref, config, restored = files.snapshot_from_bytes(stored, Now(7.0, 5002.5))
    assert (ref, config) == (REF, CONFIG)
    # 10 of 12.5 s are left.
    drained = Endpoint("one", "10.0.0.2", 3000, draining=True)
    assert restored == {
        EndpointKey(REF, "web", "http", "one"): TrackedEndpoint(drained, drain_deadline=17.0, drain_seconds=10.0)
    }


def test_snapshot_restore_never_extends_a_drain() -> None:
    tracked = update(update({}, REF, CONFIG, 12.5, 0.0), REF, None, 12.5, 0.0)
    stored = files.snapshot_to_bytes(REF, CONFIG, tracked, Now(0.0, 5000.0))
    _, _, restored = files.snapshot_from_bytes(stored, Now(0.0, 1000.0))
    assert [endpoint.drain_deadline for endpoint in restored.values()] == [12.5]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"env": "a/b/c", "site": {}, "places": []}'], ids=repr)
def test_damaged_snapshot_is_rejected(content: bytes) -> None:
    with pytest.raises(ValueError):
        files.snapshot_from_bytes(content, Now(0.0, 0.0))
