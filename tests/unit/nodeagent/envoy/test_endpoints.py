"""Life of endpoints: added, draining, removed, in any order of observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest

from devopsellence.nodeagent.envoy import endpoints
from devopsellence.nodeagent.envoy.admin import EnvoyState, UpstreamHost
from devopsellence.nodeagent.envoy.endpoints import EndpointKey, TrackedEndpoint, TrackedEndpoints
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Route, RoutingConfig
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
OTHER = EnvironmentRef("acme", "shop", "staging")
OLD, NEW = Endpoint("old", "10.0.0.2", 3000), Endpoint("new", "10.0.0.3", 3000)
OLD_HOST, NEW_HOST = "10.0.0.2:3000", "10.0.0.3:3000"
LIMIT = 30.0


def config(*members: Endpoint, ref: EnvironmentRef = REF) -> RoutingConfig:
    return RoutingConfig(
        ref, ("a.example",), (Route("a.example", "/", "web", "http"),), (Backend("web", "http", members),)
    )


def configure(tracked: TrackedEndpoints, *members: Endpoint, now: float = 0.0) -> dict[EndpointKey, TrackedEndpoint]:
    return endpoints.update(tracked, REF, config(*members), LIMIT, now)


def observe(
    tracked: TrackedEndpoints, hosts: Mapping[str, UpstreamHost] | None, now: float, *, routes: bool = True
) -> dict[EndpointKey, TrackedEndpoint]:
    return endpoints.observe(tracked, lambda *_: hosts, now, routes_known=routes)


def cut_over() -> dict[EndpointKey, TrackedEndpoint]:
    """Return endpoints in the middle of a cutover: the new endpoint has just replaced the confirmed old endpoint."""
    return configure(observe(configure({}, OLD), {OLD_HOST: UpstreamHost()}, 0.0), NEW, now=1.0)


def told(tracked: TrackedEndpoints, now: float, *, active: int = 1) -> dict[EndpointKey, TrackedEndpoint]:
    """Return endpoints once Envoy uses all of them as configured, with active requests on each."""
    hosts = {endpoint.host: UpstreamHost(endpoint.endpoint.draining, active) for endpoint in tracked.values()}
    return observe(tracked, hosts, now)


def containers(tracked: TrackedEndpoints) -> set[str]:
    return {key.container for key in tracked}


def test_serving_container_is_held() -> None:
    assert endpoints.held(configure({}, OLD), REF) == {"old": "serves"}
    assert endpoints.held(configure({}, OLD), OTHER) == {}


def test_draining_container_is_held_until_idle_twice() -> None:
    tracked = cut_over()
    assert endpoints.held(tracked, REF) == {"old": "is being taken out of service", "new": "serves"}
    tracked = observe(tracked, {OLD_HOST: UpstreamHost()}, 1.1)
    assert endpoints.held(tracked, REF)["old"] == "is being taken out of service"
    tracked = observe(
        tracked, {OLD_HOST: UpstreamHost(draining=True, active_requests=3), NEW_HOST: UpstreamHost()}, 1.2
    )
    assert endpoints.held(tracked, REF)["old"] == "3 requests are under way"
    tracked = observe(
        tracked, {OLD_HOST: UpstreamHost(draining=True, active_requests=1), NEW_HOST: UpstreamHost()}, 1.3
    )
    assert endpoints.held(tracked, REF)["old"] == "1 request is under way"
    tracked = observe(tracked, {OLD_HOST: UpstreamHost(draining=True), NEW_HOST: UpstreamHost()}, 1.4)
    assert endpoints.held(tracked, REF)["old"] == "has just had its last request"
    tracked = observe(
        tracked, {OLD_HOST: UpstreamHost(draining=True), NEW_HOST: UpstreamHost()}, 1.4 + endpoints.IDLE_SECONDS
    )
    assert endpoints.held(tracked, REF) == {"new": "serves"}


def test_request_between_observations_restarts_the_wait() -> None:
    idle = {OLD_HOST: UpstreamHost(draining=True)}
    tracked = observe(cut_over(), idle, 2.0)
    tracked = observe(tracked, {OLD_HOST: UpstreamHost(draining=True, active_requests=1)}, 3.0)
    assert "old" in containers(observe(tracked, idle, 4.0))


def test_container_is_held_while_former_routes_may_be_used() -> None:
    tracked = cut_over()
    for now in (2.0, 3.0, 4.0):
        tracked = observe(tracked, {OLD_HOST: UpstreamHost(draining=True)}, now, routes=False)
    assert "old" in containers(tracked)


@pytest.mark.parametrize("hosts", [None, {}], ids=["no cluster", "no such host"])
def test_endpoint_unknown_to_envoy_has_no_requests(hosts: Mapping[str, UpstreamHost] | None) -> None:
    tracked = observe(observe(cut_over(), hosts, 2.0), hosts, 3.0)
    assert containers(tracked) == {"new"}


def test_deadline_ends_a_drain_despite_requests() -> None:
    tracked = observe(cut_over(), {OLD_HOST: UpstreamHost(draining=True, active_requests=1)}, 2.0)
    assert endpoints.next_deadline(tracked) == 1.0 + LIMIT
    assert containers(endpoints.without_expired(tracked, 1.0 + LIMIT - 0.1)) == {"old", "new"}
    assert containers(endpoints.without_expired(tracked, 1.0 + LIMIT)) == {"new"}


def test_unchanged_config_keeps_the_deadline() -> None:
    tracked = cut_over()
    assert configure(tracked, NEW, now=20.0) == tracked


@pytest.mark.parametrize("now", [1.0, 1.0 + LIMIT, 1.0 + 1000 * LIMIT])
@pytest.mark.parametrize(
    ("hosts", "routes"),
    [
        ({OLD_HOST: UpstreamHost()}, True),
        ({OLD_HOST: UpstreamHost(active_requests=2)}, True),
        ({OLD_HOST: UpstreamHost(draining=True)}, False),
        (None, False),
    ],
    ids=["still sends requests", "has requests", "former routes", "not known"],
)
def test_container_is_held_until_envoy_was_seen_to_send_requests_elsewhere(
    now: float, hosts: Mapping[str, UpstreamHost] | None, routes: bool
) -> None:
    tracked = endpoints.without_expired(observe(cut_over(), hosts, now, routes=routes), now)
    assert endpoints.held(tracked, REF) == {"old": "is being taken out of service", "new": "serves"}
    assert endpoints.next_deadline(tracked) is None


def test_requests_get_their_time_when_the_drain_begins_late() -> None:
    late = 100 * LIMIT
    tracked = told(cut_over(), late)
    assert endpoints.next_deadline(tracked) == late + LIMIT
    assert containers(endpoints.without_expired(tracked, late + LIMIT - 0.1)) == {"old", "new"}
    # Only once: a restarted Envoy, or agent, has no more requests of before.
    assert endpoints.next_deadline(told(tracked, late + 1.0)) == late + LIMIT


def test_endpoint_that_no_file_has_had_needs_no_drain() -> None:
    tracked = configure(cut_over(), OLD, now=2.0)
    unwritten = [key for key in tracked if key.container == "new"]
    assert containers(endpoints.without_unwritten(tracked, unwritten)) == {"old"}
    # One that serves stays, written or not.
    assert containers(endpoints.without_unwritten(cut_over(), unwritten)) == {"old", "new"}


def test_drain_deadline_can_only_move_earlier() -> None:
    tracked = told(cut_over(), 1.5)
    assert endpoints.next_deadline(endpoints.update(tracked, REF, config(NEW), 5.0, 2.0)) == 7.0
    assert endpoints.next_deadline(endpoints.update(tracked, REF, config(NEW), 500.0, 2.0)) == 1.0 + LIMIT


def test_draining_endpoint_serves_again_when_configured_again() -> None:
    tracked = configure(cut_over(), OLD, now=2.0)
    assert endpoints.held(tracked, REF)["old"] == "serves"
    assert endpoints.held(tracked, REF)["new"] == "is being taken out of service"


def test_moved_container_is_not_drained_at_the_former_address() -> None:
    moved = replace(OLD, address="10.0.0.9")
    tracked = configure(configure({}, OLD), moved)
    assert [endpoint.endpoint for endpoint in tracked.values()] == [moved]


def test_no_running_envoy_ends_all_drains() -> None:
    assert containers(endpoints.without_draining(cut_over())) == {"new"}


def test_draining_endpoints_are_rendered_even_after_removal() -> None:
    rendered = endpoints.with_draining(config(NEW), REF, cut_over())
    assert rendered is not None
    assert rendered.backends == (Backend("web", "http", (NEW, replace(OLD, draining=True))),)

    tracked = endpoints.update(observe(configure({}, OLD), {OLD_HOST: UpstreamHost()}, 0.0), REF, None, LIMIT, 1.0)
    rendered = endpoints.with_draining(None, REF, tracked)
    assert rendered == RoutingConfig(REF, (), (), (Backend("web", "http", (replace(OLD, draining=True),)),))
    assert endpoints.with_draining(None, REF, {}) is None


def test_update_leaves_other_environments_alone() -> None:
    tracked = endpoints.update(configure({}, OLD), OTHER, config(NEW, ref=OTHER), LIMIT, 0.0)
    assert set(endpoints.held(configure(tracked), OTHER)) == {"new"}
    assert set(endpoints.held(configure(tracked), REF)) == {"old"}


def test_merged_states_add_up_requests() -> None:
    state = EnvoyState({"c": {OLD_HOST: UpstreamHost(draining=True, active_requests=1)}}, {"lds": "2"})
    replaced = EnvoyState(
        {"c": {OLD_HOST: UpstreamHost(active_requests=2), NEW_HOST: UpstreamHost()}, "d": {}}, {"lds": "1"}
    )
    merged = endpoints.merge_states(state, replaced)
    assert merged.clusters == {"c": {OLD_HOST: UpstreamHost(active_requests=3), NEW_HOST: UpstreamHost()}, "d": {}}
    assert merged.versions == {"lds": "2"}


@pytest.mark.parametrize("cuts", range(32))
def test_interrupted_cutover_ends_and_never_drops_a_busy_endpoint(cuts: int) -> None:
    """``cuts``: bits of the steps after which the agent is killed. The next agent knows the endpoints on disk only."""
    envoy: dict[str, tuple[bool, int]] = {OLD_HOST: (False, 1)}
    tracked = configure({}, OLD)
    for step in range(40):
        now = float(step)
        if step < 5 and cuts >> step & 1:
            tracked = {
                key: TrackedEndpoint(endpoint.endpoint, drain_deadline=endpoint.drain_deadline)
                for key, endpoint in tracked.items()
            }
        tracked = configure(tracked, *((OLD,) if step == 0 else (NEW,)), now=now)
        # Envoy follows the files one step late, and the request ends in the tenth.
        tracked = observe(
            tracked, {host: UpstreamHost(draining, active) for host, (draining, active) in envoy.items()}, now
        )
        listed = {endpoint.host: endpoint.endpoint.draining for endpoint in tracked.values()}
        busy = 1 if step < 10 else 0
        assert busy == 0 or OLD_HOST in listed
        envoy = {host: (draining, busy if host == OLD_HOST else 0) for host, draining in listed.items()}
    assert endpoints.held(tracked, REF) == {"new": "serves"}


@pytest.mark.parametrize(("first", "second"), list(product(["old", "new", "both", "none"], repeat=2)), ids=str)
def test_endpoints_match_the_config_once_drained(first: str, second: str) -> None:
    members = {"old": (OLD,), "new": (NEW,), "both": (OLD, NEW), "none": ()}
    tracked = told(configure(configure({}, *members[first]), *members[second]), 0.0)
    assert {key.container for key in endpoints.without_expired(tracked, LIMIT)} == {
        endpoint.container for endpoint in members[second]
    }
    assert not endpoints.any_unsettled(
        observe(endpoints.without_expired(tracked, LIMIT), {OLD_HOST: UpstreamHost(), NEW_HOST: UpstreamHost()}, LIMIT),
    )
