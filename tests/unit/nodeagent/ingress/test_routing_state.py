"""Routing that Envoy's files do not have yet: set, written, and set while it is being written."""

from __future__ import annotations

from devopsellence.nodeagent.envoy.model import Backend, Endpoint, RoutingConfig
from devopsellence.nodeagent.ingress.routing_state import RoutingState
from devopsellence.store.keys import EnvironmentRef

SHOP = EnvironmentRef("acme", "shop", "production")


def routed(*containers: str) -> RoutingConfig:
    endpoints = tuple(Endpoint(container, "10.0.0.2", 3000) for container in containers)
    return RoutingConfig(SHOP, ("shop.example",), (), (Backend("web", "http", endpoints),))


def state_with(*containers: str) -> RoutingState:
    state = RoutingState()
    assert state.set_config(SHOP, routed(*containers), 0.0, may_be_known=False)
    return state


def containers(state: RoutingState) -> dict[str, bool]:
    """Return the tracked containers, and whether each drains."""
    return {key.container: endpoint.endpoint.draining for key, endpoint in state.endpoints.items()}


def test_same_configuration_changes_nothing() -> None:
    state = state_with("one")
    state.end_write(state.begin_write())
    assert not state.set_config(SHOP, routed("one"), 1.0, may_be_known=False)
    assert not state.is_dirty


def test_environment_is_pending_until_it_is_written() -> None:
    state = state_with("one")
    assert state.is_pending(SHOP)
    write = state.begin_write()
    assert state.is_pending(SHOP)
    state.end_write(write)
    assert not state.is_pending(SHOP)


def test_configuration_set_during_a_write_is_still_to_be_written() -> None:
    state = state_with("one")
    write = state.begin_write()
    state.set_config(SHOP, routed("two"), 1.0, may_be_known=False)
    state.end_write(write)
    assert state.is_dirty
    assert containers(state) == {"one": True, "two": False}, "a file has the first, so it drains"


def test_endpoint_that_no_file_has_had_does_not_drain() -> None:
    state = state_with("one")
    state.set_config(SHOP, routed("two"), 1.0, may_be_known=False)
    assert containers(state) == {"two": False}


def test_endpoint_that_envoy_may_know_drains() -> None:
    state = RoutingState()
    state.set_config(SHOP, routed("one"), 0.0, may_be_known=True)
    state.set_config(SHOP, routed("two"), 1.0, may_be_known=True)
    assert containers(state) == {"one": True, "two": False}


def test_failed_write_is_repeated_and_forgets_what_no_file_has() -> None:
    state = state_with("one")
    write = state.begin_write()
    state.set_config(SHOP, routed("two"), 1.0, may_be_known=False)
    state.abandon_write(write, written=[])
    assert state.is_dirty
    assert containers(state) == {"two": False}


def test_failed_write_keeps_an_endpoint_whose_file_was_written() -> None:
    state = state_with("one")
    write = state.begin_write()
    state.set_config(SHOP, routed("two"), 1.0, may_be_known=False)
    state.abandon_write(write, written=write.attempted)
    assert containers(state) == {"one": True, "two": False}


def test_removed_environment_is_forgotten_once_its_endpoints_are_gone_and_that_is_written() -> None:
    state = state_with("one")
    state.end_write(state.begin_write())
    state.set_config(SHOP, None, 1.0, may_be_known=False)
    state.end_write(state.begin_write())
    assert state.configs == {SHOP: None}
    drained = state.release({})
    assert {key.container for key in drained} == {"one"}
    write = state.begin_write()
    assert write.removed == {SHOP}
    state.end_write(write)
    assert state.environments == set()
