"""Files are made anew only where they are others, and never more than Envoy can follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.nodeagent.envoy import config, render
from devopsellence.nodeagent.envoy.admin import expected
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Listen, Route, Routing, Site
from devopsellence.nodeagent.envoy.render import Rendering
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.ingress.tls import tls_certificate

ENV = EnvironmentRef("acme", "shop", "production")
LISTEN = Listen(80, 443)
CERTIFICATE = tls_certificate()
ONE, TWO = Endpoint("one", "10.0.0.2", 3000), Endpoint("two", "10.0.0.3", 3000)


def routing(*hosts: str, endpoints: tuple[Endpoint, ...] = (ONE,)) -> Routing:
    routes = tuple(Route(host, "/", "web", "http") for host in hosts)
    backends = (Backend("web", "http", endpoints),)
    return Routing((Site(ENV, hosts, routes, backends, tls=True, certificates=dict.fromkeys(hosts, CERTIFICATE)),))


class Room:
    """How many more files can be followed, and what was asked."""

    def __init__(self, free: int = 1000) -> None:
        self.free = free
        self.asked: list[int] = []

    def __call__(self, more: int) -> int:
        self.asked.append(more)
        return min(more, self.free)


@pytest.mark.parametrize(
    "then",
    [
        routing("a", "b", endpoints=(TWO, replace(ONE, draining=True))),
        routing("a", "b", endpoints=()),
        routing("a", "c"),
        routing("a"),
        Routing(),
    ],
    ids=["cutover", "no endpoint", "another host", "a host less", "nothing"],
)
def test_whatever_was_before_the_files_are_those_of_now(then: Routing) -> None:
    rendering = Rendering("/f", Room())
    rendering.render(routing("a", "b"), LISTEN)
    found = rendering.render(then, LISTEN)
    assert found.files == config.files(then, LISTEN, "/f")
    assert found.expected == expected(found.files)
    assert found.routing == then


def test_another_place_to_listen_makes_everything_anew() -> None:
    rendering = Rendering("/f", Room())
    rendering.render(routing("a"), LISTEN)
    assert rendering.render(routing("a"), Listen(80, 0)).files == config.files(routing("a"), Listen(80, 0), "/f")


def environments(*names: str) -> Routing:
    sites = [replace(routing(name).sites[0], env=EnvironmentRef("acme", "shop", name)) for name in names]
    return Routing(tuple(sites))


def test_environments_that_envoy_cannot_follow_are_left_out_and_those_that_are_there_stay() -> None:
    room = Room()
    rendering = Rendering("/f", room)
    rendering.render(environments("b", "c"), LISTEN)
    room.free = 1
    found = rendering.render(environments("a", "b", "c", "d"), LISTEN)
    assert [site.env.environment for site in found.routing.sites] == ["a", "b", "c"]
    assert found.files == config.files(environments("a", "b", "c"), LISTEN, "/f")
    assert {env.environment for env in found.told} == {"d"}
    assert "sysctl -w fs.inotify.max_user_instances=" in "".join(found.told.values())

    room.free = 1000
    again = rendering.render(environments("a", "b", "c", "d"), LISTEN)
    assert again.files == config.files(environments("a", "b", "c", "d"), LISTEN, "/f")
    assert again.told == {}


def test_what_a_running_envoy_follows_needs_no_more_room() -> None:
    rendering = Rendering("/f", Room(0))
    rendering.found(len(config.files(routing("a", "b"), LISTEN, "/f")))
    assert rendering.render(routing("a", "b"), LISTEN).told == {}


def test_where_no_envoy_runs_any_more_everything_is_counted_anew() -> None:
    room = Room()
    rendering = Rendering("/f", room)
    rendering.render(routing("a"), LISTEN)
    rendering.ended()
    rendering.render(routing("a"), LISTEN)
    assert len(room.asked) == 2
    assert room.asked[0] == room.asked[1]


def test_this_machine_has_room_for_a_few() -> None:
    assert render.room(3) == 3
