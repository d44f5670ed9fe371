"""Hollow Envoy uses the files of the real renderer as a real one does, and its faults are those of a real one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.hollow.envoy import HollowEnvoy
from devopsellence.nodeagent.envoy.admin import AdminUnavailable, UpstreamHost
from devopsellence.nodeagent.envoy.config import cluster_name
from devopsellence.nodeagent.envoy.container import CONFIG, FOLDER
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, ListenerConfig, NodeRouting, Route, RoutingConfig
from devopsellence.nodeagent.envoy.render import ConfigRenderer
from devopsellence.nodeagent.state_files import replace_file
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
HOST = "shop.example.com"
OLD, NEW = Endpoint("old", "10.0.0.1", 3000), Endpoint("new", "10.0.0.2", 3000)
LEAVING = Endpoint("old", "10.0.0.1", 3000, draining=True)


class Node:
    """Folder of a router with the files of an environment, and an Envoy on it."""

    def __init__(self, folder: Path) -> None:
        self.envoy = HollowEnvoy(folder)
        self._folder = folder
        self._renderer = ConfigRenderer(FOLDER, available=lambda more: more)

    def write(self, *endpoints: Endpoint) -> None:
        route = Route(HOST, "/", "web", "http")
        config = RoutingConfig(REF, (HOST,), (route,), (Backend("web", "http", endpoints),))
        rendered = self._renderer.render(NodeRouting((config,)), ListenerConfig(8000, 0))
        self.expected = {name: known.version for name, known in rendered.expected.items()}
        for name, content in rendered.files.items():
            replace_file(self._folder / CONFIG / name, content, sync=False)

    def confirmed(self) -> bool:
        return self.envoy.state().versions == self.expected

    def hosts(self) -> dict[str, UpstreamHost]:
        return dict(self.envoy.state().clusters[cluster_name(REF, "web", "http")])


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.write(OLD)
    made.envoy.start()
    return made


def used(node: Node) -> tuple[Iterable[str], Iterable[str]]:
    return set(node.envoy.in_use()), set(node.envoy.served().get(HOST, ()))


def test_files_in_use_are_those_of_the_renderer(node: Node) -> None:
    assert node.confirmed()
    assert node.envoy.state().ports == {8000}
    assert used(node) == ({"old"}, {"old"})
    node.write(LEAVING, NEW)
    assert node.confirmed()
    assert node.hosts() == {"10.0.0.1:3000": UpstreamHost(draining=True), "10.0.0.2:3000": UpstreamHost()}
    assert used(node) == ({"new"}, {"new"})


def test_refused_file_is_used_once_it_is_written_again(node: Node) -> None:
    node.envoy.faults.refuses = True
    node.write(LEAVING, NEW)
    assert not node.confirmed()
    node.envoy.faults.refuses = False
    assert not node.confirmed()
    assert used(node) == ({"old"}, {"old"})
    node.write(LEAVING, NEW)
    assert node.confirmed()
    assert used(node) == ({"new"}, {"new"})


def test_slow_envoy_serves_as_before(node: Node) -> None:
    node.envoy.faults.read_seconds = 60.0
    node.write(LEAVING, NEW)
    assert not node.confirmed()
    assert used(node) == ({"old"}, {"old"})
    node.envoy.faults.read_seconds = 0.0
    assert node.confirmed()


def test_envoy_that_is_away_serves_as_before(node: Node) -> None:
    node.envoy.faults.away = True
    node.write(NEW)
    with pytest.raises(AdminUnavailable):
        node.envoy.state()
    node.envoy.read()
    assert used(node) == ({"old"}, {"old"})


def test_restarted_envoy_has_the_files_that_are_there(node: Node) -> None:
    node.envoy.faults.refuses = True
    node.write(NEW)
    node.envoy.read()
    node.envoy.faults.refuses = False
    node.envoy.stop()
    assert used(node) == (set(), set())
    node.envoy.start()
    assert node.confirmed()
    assert used(node) == ({"new"}, {"new"})


def test_long_request_holds_a_draining_endpoint_only(node: Node) -> None:
    node.envoy.faults.request_seconds = 60.0
    node.write(LEAVING, NEW)
    assert {name: host.active_requests for name, host in node.hosts().items()} == {
        "10.0.0.1:3000": 1,
        "10.0.0.2:3000": 0,
    }
    node.envoy.faults.request_seconds = 0.0
    assert not any(host.active_requests for host in node.hosts().values())
