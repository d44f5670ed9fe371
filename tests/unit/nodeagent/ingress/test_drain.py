"""Endpoints come, are drained and go, whatever the order in which things are seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest

from devopsellence.nodeagent.envoy import endpoints as drain
from devopsellence.nodeagent.envoy.admin import Host, Seen
from devopsellence.nodeagent.envoy.endpoints import Key, Place, Places
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Route, Site
from devopsellence.store.keys import EnvironmentRef

ENV = EnvironmentRef("acme", "shop", "production")
OTHER = EnvironmentRef("acme", "shop", "staging")
OLD, NEW = Endpoint("old", "10.0.0.2", 3000), Endpoint("new", "10.0.0.3", 3000)
OLD_HOST, NEW_HOST = "10.0.0.2:3000", "10.0.0.3:3000"
LIMIT = 30.0


def site(*endpoints: Endpoint, env: EnvironmentRef = ENV) -> Site:
    return Site(env, ("a.example",), (Route("a.example", "/", "web", "http"),), (Backend("web", "http", endpoints),))


def follow(places: Places, *endpoints: Endpoint, now: float = 0.0) -> dict[Key, Place]:
    return drain.follow(places, ENV, site(*endpoints), LIMIT, now)


def look(places: Places, hosts: Mapping[str, Host] | None, now: float, *, routes: bool = True) -> dict[Key, Place]:
    return drain.observe(places, lambda *_: hosts, now, routes_known=routes)


def cut_over() -> dict[Key, Place]:
    """The old one serves and is seen to, and is then replaced by the new one."""
    return follow(look(follow({}, OLD), {OLD_HOST: Host()}, 0.0), NEW, now=1.0)


def containers(places: Places) -> set[str]:
    return {key.container for key in places}


def test_what_serves_is_held() -> None:
    assert drain.held(follow({}, OLD), ENV) == {"old": "serves"}
    assert drain.held(follow({}, OLD), OTHER) == {}


def test_the_old_one_is_held_until_envoy_was_seen_without_requests_on_it_twice() -> None:
    places = cut_over()
    assert drain.held(places, ENV) == {"old": "is being taken out of service", "new": "serves"}
    places = look(places, {OLD_HOST: Host()}, 1.1)
    assert drain.held(places, ENV)["old"] == "is being taken out of service"
    places = look(places, {OLD_HOST: Host(draining=True, active=3), NEW_HOST: Host()}, 1.2)
    assert drain.held(places, ENV)["old"] == "3 requests are under way"
    places = look(places, {OLD_HOST: Host(draining=True, active=1), NEW_HOST: Host()}, 1.3)
    assert drain.held(places, ENV)["old"] == "1 request is under way"
    places = look(places, {OLD_HOST: Host(draining=True), NEW_HOST: Host()}, 1.4)
    assert drain.held(places, ENV)["old"] == "has just had its last request"
    places = look(places, {OLD_HOST: Host(draining=True), NEW_HOST: Host()}, 1.4 + drain.QUIET_SECONDS)
    assert drain.held(places, ENV) == {"new": "serves"}


def test_a_request_between_two_looks_begins_the_wait_anew() -> None:
    quiet = {OLD_HOST: Host(draining=True)}
    places = look(cut_over(), quiet, 2.0)
    places = look(places, {OLD_HOST: Host(draining=True, active=1)}, 3.0)
    assert "old" in containers(look(places, quiet, 4.0))


def test_nothing_goes_while_requests_may_come_by_former_routes() -> None:
    places = cut_over()
    for now in (2.0, 3.0, 4.0):
        places = look(places, {OLD_HOST: Host(draining=True)}, now, routes=False)
    assert "old" in containers(places)


@pytest.mark.parametrize("hosts", [None, {}], ids=["no cluster", "no such host"])
def test_an_envoy_that_has_just_started_has_no_requests_on_it(hosts: Mapping[str, Host] | None) -> None:
    places = look(look(cut_over(), hosts, 2.0), hosts, 3.0)
    assert containers(places) == {"new"}


def test_the_limit_ends_a_drain_whatever_is_under_way() -> None:
    places = look(cut_over(), {OLD_HOST: Host(draining=True, active=1)}, 2.0)
    assert drain.first_limit(places) == 1.0 + LIMIT
    assert containers(drain.expire(places, 1.0 + LIMIT - 0.1)) == {"old", "new"}
    assert containers(drain.expire(places, 1.0 + LIMIT)) == {"new"}


def test_the_same_wish_again_changes_no_limit() -> None:
    places = cut_over()
    assert follow(places, NEW, now=20.0) == places


def test_a_shorter_limit_holds_and_a_longer_one_does_not() -> None:
    places = cut_over()
    assert drain.first_limit(drain.follow(places, ENV, site(NEW), 5.0, 2.0)) == 7.0
    assert drain.first_limit(drain.follow(places, ENV, site(NEW), 500.0, 2.0)) == 1.0 + LIMIT


def test_one_that_is_wanted_again_serves_again() -> None:
    places = follow(cut_over(), OLD, now=2.0)
    assert drain.held(places, ENV)["old"] == "serves"
    assert drain.held(places, ENV)["new"] == "is being taken out of service"


def test_a_container_with_another_address_is_not_drained_at_the_former_one() -> None:
    moved = replace(OLD, address="10.0.0.9")
    places = follow(follow({}, OLD), moved)
    assert [place.endpoint for place in places.values()] == [moved]


def test_without_an_envoy_nothing_is_drained() -> None:
    assert containers(drain.without_draining(cut_over())) == {"new"}


def test_envoy_is_given_what_is_drained_also_without_a_site() -> None:
    shown = drain.shown(site(NEW), ENV, cut_over())
    assert shown is not None
    assert shown.backends == (Backend("web", "http", (NEW, replace(OLD, draining=True))),)

    places = drain.follow(look(follow({}, OLD), {OLD_HOST: Host()}, 0.0), ENV, None, LIMIT, 1.0)
    shown = drain.shown(None, ENV, places)
    assert shown == Site(ENV, (), (), (Backend("web", "http", (replace(OLD, draining=True),)),))
    assert drain.shown(None, ENV, {}) is None


def test_other_environments_are_left_alone() -> None:
    places = drain.follow(follow({}, OLD), OTHER, site(NEW, env=OTHER), LIMIT, 0.0)
    assert set(drain.held(follow(places), OTHER)) == {"new"}
    assert set(drain.held(follow(places), ENV)) == {"old"}


def test_two_envoys_at_once_count_together() -> None:
    seen = Seen({"c": {OLD_HOST: Host(draining=True, active=1)}}, {"lds": "2"})
    other = Seen({"c": {OLD_HOST: Host(active=2), NEW_HOST: Host()}, "d": {}}, {"lds": "1"})
    both = drain.together(seen, other)
    assert both.clusters == {"c": {OLD_HOST: Host(active=3), NEW_HOST: Host()}, "d": {}}
    assert both.versions == {"lds": "2"}


@pytest.mark.parametrize("cuts", range(32))
def test_a_cutover_that_is_cut_anywhere_ends_and_never_lets_go_of_a_busy_one(cuts: int) -> None:
    """``cuts``: after which of the steps the agent is killed, as bits. What the next one knows is what is in the files:
    endpoints, without what was seen."""
    envoy: dict[str, tuple[bool, int]] = {OLD_HOST: (False, 1)}
    places = follow({}, OLD)
    for step in range(40):
        now = float(step)
        if step < 5 and cuts >> step & 1:
            places = {key: Place(place.endpoint, limit=place.limit) for key, place in places.items()}
        places = follow(places, *((OLD,) if step == 0 else (NEW,)), now=now)
        # Envoy follows the files one step late, and the request ends in the tenth.
        places = look(places, {host: Host(draining, active) for host, (draining, active) in envoy.items()}, now)
        listed = {place.host: place.endpoint.draining for place in places.values()}
        busy = 1 if step < 10 else 0
        assert busy == 0 or OLD_HOST in listed
        envoy = {host: (draining, busy if host == OLD_HOST else 0) for host, draining in listed.items()}
    assert drain.held(places, ENV) == {"new": "serves"}


@pytest.mark.parametrize(
    ("first", "second"), list(product(["old", "new", "both", "none"], repeat=2)), ids=lambda each: each
)
def test_places_are_what_is_wanted_once_all_is_drained(first: str, second: str) -> None:
    wishes = {"old": (OLD,), "new": (NEW,), "both": (OLD, NEW), "none": ()}
    places = follow(follow({}, *wishes[first]), *wishes[second])
    assert {key.container for key in drain.expire(places, LIMIT)} == {each.container for each in wishes[second]}
    assert not drain.unsettled(
        look(drain.expire(places, LIMIT), {OLD_HOST: Host(), NEW_HOST: Host()}, LIMIT),
    )
