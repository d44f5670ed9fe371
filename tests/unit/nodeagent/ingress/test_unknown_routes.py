"""Unknown routes after a damaged snapshot and after a lost folder."""

from __future__ import annotations

from devopsellence.nodeagent.envoy.model import Backend, Endpoint, RoutingConfig
from devopsellence.nodeagent.ingress.unknown_routes import PROBE_SECONDS, UnknownRoutes
from devopsellence.store.keys import EnvironmentRef

SHOP = EnvironmentRef("acme", "shop", "production")
BLOG = EnvironmentRef("acme", "blog", "production")


def routed(ref: EnvironmentRef, *containers: str) -> RoutingConfig:
    endpoints = tuple(Endpoint(container, "10.0.0.2", 3000) for container in containers)
    return RoutingConfig(ref, ("shop.example",), (), (Backend("web", "http", endpoints),))


def loaded(*, readable: tuple[EnvironmentRef, ...] = (), unreadable: tuple[EnvironmentRef, ...] = ()) -> UnknownRoutes:
    routes = UnknownRoutes()
    routes.loaded(readable, unreadable)
    return routes


def exist(routes: UnknownRoutes, now: float = 0.0, *, envoy_runs: bool = True) -> bool:
    return routes.exist(envoy_runs=envoy_runs, now=now)


def test_complete_snapshots_leave_nothing_unknown() -> None:
    assert not exist(loaded(readable=(SHOP,)))


def test_unreadable_snapshot_is_unknown_until_its_routing_is_set() -> None:
    routes = loaded(readable=(BLOG,), unreadable=(SHOP,))
    routes.routing_set(BLOG, routed(BLOG), 0.0)
    assert exist(routes)
    assert exist(routes, envoy_runs=False)
    assert str(routes) == (
        "the router's file of acme/shop/production is damaged or missing: changes wait for its assignment"
    )
    routes.routing_set(SHOP, routed(SHOP), 0.0)
    assert not exist(routes)
    assert str(routes) == ""


def test_unreadable_snapshot_of_an_environment_that_left_is_known() -> None:
    routes = loaded(readable=(BLOG,), unreadable=(SHOP,))
    routes.listed([BLOG], [])
    assert not exist(routes)


def test_new_node_without_envoy_has_no_unknown_routes() -> None:
    assert not exist(loaded(), envoy_runs=False)


def test_lost_folder_is_unknown_until_every_assigned_environment_is_routed() -> None:
    routes = loaded()
    routes.routing_set(SHOP, routed(SHOP, "one"), 0.0)
    assert exist(routes), "there may be more environments"
    routes.listed([SHOP, BLOG], [SHOP])
    assert exist(routes)
    assert "acme/blog/production" in str(routes)
    routes.routing_set(BLOG, None, 0.0)
    assert not exist(routes)


def test_lost_folder_waits_for_the_first_probes_of_an_environment() -> None:
    routes = loaded()
    routes.listed([SHOP], [])
    routes.routing_set(SHOP, routed(SHOP), 5.0)
    routes.routing_set(SHOP, routed(SHOP), 7.0)
    assert routes.next_deadline(7.0) == 5.0 + PROBE_SECONDS
    assert exist(routes, 5.0 + PROBE_SECONDS - 0.1)
    assert not exist(routes, 5.0 + PROBE_SECONDS), "it has no container that can take requests"
    assert routes.next_deadline(5.0 + PROBE_SECONDS) is None


def test_environments_without_containers_do_not_renew_each_others_wait() -> None:
    routes = loaded()
    routes.listed([SHOP, BLOG], [])
    now = 0.0
    while now < PROBE_SECONDS + 5.0:
        routes.routing_set(SHOP, routed(SHOP), now)
        routes.routing_set(BLOG, routed(BLOG), now + 1.0)
        assert exist(routes, now + 1.0) is (now < PROBE_SECONDS)
        now += 2.5


def test_lost_folder_is_known_once_a_container_can_take_requests() -> None:
    routes = loaded()
    routes.listed([SHOP], [])
    routes.routing_set(SHOP, routed(SHOP), 5.0)
    routes.routing_set(SHOP, routed(SHOP, "one"), 6.0)
    assert not exist(routes, 6.0)


def test_lost_folder_without_envoy_is_whole_again_once_it_is_written() -> None:
    routes = loaded()
    routes.listed([SHOP, BLOG], [])
    assert not exist(routes, envoy_runs=False)
    routes.written()
    assert not exist(routes)
