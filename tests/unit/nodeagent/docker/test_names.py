"""Names and labels of containers, networks and volumes."""

from __future__ import annotations

import pytest

from devopsellence.nodeagent.docker import names
from devopsellence.store.keys import EnvironmentRef

ENV = EnvironmentRef("acme", "Shop", "production")


def test_names_are_lower_case_and_deterministic() -> None:
    name = names.container_name("u1", ENV, "web", "hash")
    assert name == names.container_name("u1", ENV, "web", "hash")
    assert name.startswith("shop-production-web-")
    assert len(name.rpartition("-")[2]) == 10


def test_container_name_differs_by_node_environment_service_and_spec() -> None:
    other = EnvironmentRef("acme", "shop", "production")
    made_of = [("u1", ENV, "web", "1"), ("u2", ENV, "web", "1"), ("u1", other, "web", "1"), ("u1", ENV, "db", "1")]
    assert len({names.container_name(*parts) for parts in [*made_of, ("u1", ENV, "web", "2")]}) == 5


def test_similar_paths_have_different_network_names() -> None:
    first, second = EnvironmentRef("acme", "a-b", "c"), EnvironmentRef("acme", "a", "b-c")
    assert names.network_name("u1", first) != names.network_name("u1", second)
    assert names.volume_name("u1", first, "data") != names.volume_name("u1", second, "data")


def test_task_name_differs_by_release() -> None:
    assert names.task_name("u1", ENV, "migrate", 1) != names.task_name("u1", ENV, "migrate", 2)


def test_ports_label_round_trip() -> None:
    ports = {"metrics": 9090, "http": 3000}
    assert names.ports_label(ports) == "http=3000,metrics=9090"
    assert names.parse_ports(names.ports_label(ports)) == ports


@pytest.mark.parametrize("label", ["", "http", "=3000", "http=", "http=x", "http=\N{SUPERSCRIPT TWO}"])
def test_malformed_ports_are_skipped(label: str) -> None:
    assert names.parse_ports(label) == {}
