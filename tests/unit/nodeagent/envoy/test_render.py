"""Rendering: unchanged files are reused, and environments beyond the inotify limit are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.nodeagent.envoy import render
from devopsellence.nodeagent.envoy.admin import expected_versions
from devopsellence.nodeagent.envoy.config import config_files
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, ListenerConfig, NodeRouting, Route, RoutingConfig
from devopsellence.nodeagent.envoy.render import ConfigRenderer
from devopsellence.store.keys import EnvironmentRef
from tests.support.host_certificates import tls_certificate

REF = EnvironmentRef("acme", "shop", "production")
LISTEN = ListenerConfig(80, 443)
CERTIFICATE = tls_certificate()
ONE, TWO = Endpoint("one", "10.0.0.2", 3000), Endpoint("two", "10.0.0.3", 3000)


def routing(*hosts: str, endpoints: tuple[Endpoint, ...] = (ONE,)) -> NodeRouting:
    routes = tuple(Route(host, "/", "web", "http") for host in hosts)
    backends = (Backend("web", "http", endpoints),)
    return NodeRouting(
        (RoutingConfig(REF, hosts, routes, backends, tls=True, certificates=dict.fromkeys(hosts, CERTIFICATE)),)
    )


class FakeWatches:
    """Number of additional files that can be watched, and the numbers asked for."""

    def __init__(self, free: int = 1000) -> None:
        self.free = free
        self.asked: list[int] = []

    def __call__(self, more: int) -> int:
        self.asked.append(more)
        return min(more, self.free)


@pytest.mark.parametrize(
    "newest",
    [
        routing("a", "b", endpoints=(TWO, replace(ONE, draining=True))),
        routing("a", "b", endpoints=()),
        routing("a", "c"),
        routing("a"),
        NodeRouting(),
    ],
    ids=["cutover", "no endpoint", "another host", "a host less", "nothing"],
)
def test_files_match_the_current_routing_after_any_history(newest: NodeRouting) -> None:
    renderer = ConfigRenderer("/f", FakeWatches())
    renderer.render(routing("a", "b"), LISTEN)
    rendered = renderer.render(newest, LISTEN)
    assert rendered.files == config_files(newest, LISTEN, "/f")
    assert rendered.expected == expected_versions(rendered.files)
    assert rendered.routing == newest


def test_changed_listener_config_renders_all_files() -> None:
    renderer = ConfigRenderer("/f", FakeWatches())
    renderer.render(routing("a"), LISTEN)
    assert renderer.render(routing("a"), ListenerConfig(80, 0)).files == config_files(
        routing("a"), ListenerConfig(80, 0), "/f"
    )


def environments(*names: str) -> NodeRouting:
    configs = [replace(routing(name).configs[0], ref=EnvironmentRef("acme", "shop", name)) for name in names]
    return NodeRouting(tuple(configs))


def test_new_environments_beyond_the_watch_limit_are_left_out() -> None:
    watches = FakeWatches()
    renderer = ConfigRenderer("/f", watches)
    renderer.render(environments("b", "c"), LISTEN)
    watches.free = 1
    rendered = renderer.render(environments("a", "b", "c", "d"), LISTEN)
    assert [config.ref.environment for config in rendered.routing.configs] == ["a", "b", "c"]
    assert rendered.files == config_files(environments("a", "b", "c"), LISTEN, "/f")
    assert {ref.environment for ref in rendered.problems} == {"d"}
    assert "sysctl -w fs.inotify.max_user_instances=" in "".join(rendered.problems.values())

    watches.free = 1000
    retried = renderer.render(environments("a", "b", "c", "d"), LISTEN)
    assert retried.files == config_files(environments("a", "b", "c", "d"), LISTEN, "/f")
    assert retried.problems == {}


def test_running_watches_need_no_more_instances() -> None:
    renderer = ConfigRenderer("/f", FakeWatches(0))
    renderer.assume_watched(len(config_files(routing("a", "b"), LISTEN, "/f")))
    assert renderer.render(routing("a", "b"), LISTEN).problems == {}


def test_reset_counts_watches_from_zero() -> None:
    watches = FakeWatches()
    renderer = ConfigRenderer("/f", watches)
    renderer.render(routing("a"), LISTEN)
    renderer.reset()
    renderer.render(routing("a"), LISTEN)
    assert len(watches.asked) == 2
    assert watches.asked[0] == watches.asked[1]


def test_machine_has_watches_available() -> None:
    assert render.available_watches(3) == 3
