"""Specification of Envoy's container: name, folder, labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.nodeagent.envoy import container
from devopsellence.nodeagent.envoy.container import EnvoySpec

SPEC = EnvoySpec("n1", "uid", "envoy:1", Path("/state/envoy"), b"{}", 2, "0:0")


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, image="envoy:2"),
        replace(SPEC, bootstrap=b"{ }"),
        replace(SPEC, concurrency=3),
        replace(SPEC, user="1:1"),
        replace(SPEC, folder=Path("/elsewhere")),
    ],
    ids=["image", "bootstrap", "concurrency", "user", "folder"],
)
def test_changed_spec_means_new_name_and_folder(other: EnvoySpec) -> None:
    assert (other.name, other.run) != (SPEC.name, SPEC.run)
    assert other.name != SPEC.name


def test_container_labels_name_node_but_no_environment() -> None:
    labels = SPEC.body()["Labels"]
    assert labels == {
        "devopsellence.managed": "true",
        "devopsellence.node": "n1",
        "devopsellence.node_uid": "uid",
        "devopsellence.router": SPEC.hash,
    }
    assert SPEC.body()["HostConfig"]["Mounts"][1]["Source"] == f"/state/envoy/run/{SPEC.hash}"
    assert container.run_folder(SPEC.folder, SPEC.hash) == SPEC.run
