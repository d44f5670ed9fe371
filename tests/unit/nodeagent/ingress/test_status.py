"""Router status of an environment, from written files and Envoy's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from devopsellence.nodeagent.envoy.admin import EnvoyState, ExpectedVersion, expected_versions
from devopsellence.nodeagent.envoy.config import config_files
from devopsellence.nodeagent.envoy.model import (
    IngressOptions,
    ListenerConfig,
    NodeRouting,
    Route,
    RouterStatus,
    RoutingConfig,
)
from devopsellence.nodeagent.ingress.status import NOT_ROUTED_YET, RouterStatusTracker
from devopsellence.store.keys import EnvironmentRef
from tests.support.host_certificates import tls_certificate

REF = EnvironmentRef("acme", "shop", "production")
HOST = "a.example"
PLAIN = RoutingConfig(REF, (HOST,), (Route(HOST, "/", "web", "http"),), (), challenges={HOST: (("token", "answer"),)})
SECURE = replace(PLAIN, tls=True, certificates={HOST: tls_certificate()})
OPTIONS = IngressOptions()
BOTH = frozenset({80, 443})


def write(tracker: RouterStatusTracker, config: RoutingConfig) -> Mapping[str, ExpectedVersion]:
    tracker.files_written(NodeRouting((config,)), {})
    return expected_versions(config_files(NodeRouting((config,)), ListenerConfig(80, 443), "/f"))


def all_used(expected: Mapping[str, ExpectedVersion], ports: frozenset[int] = BOTH) -> EnvoyState:
    return EnvoyState({}, {statistic: version.version for statistic, version in expected.items()}, ports)


def served(config: RoutingConfig) -> RouterStatusTracker:
    tracker = RouterStatusTracker(OPTIONS)
    tracker.set_envoy(running=True, problem="", failed=False)
    tracker.observe(
        all_used(write(tracker, config)),
        expected_versions(config_files(NodeRouting((config,)), ListenerConfig(80, 443), "/f")),
    )
    tracker.endpoints_observed(frozenset())
    return tracker


def test_status_before_envoy_confirms() -> None:
    tracker = RouterStatusTracker(OPTIONS)
    assert tracker.status(PLAIN) == RouterStatus(reason=NOT_ROUTED_YET)
    tracker.set_envoy(running=False, problem="pulling Envoy's image: 1 of 3 layers", failed=False)
    assert tracker.status(PLAIN) == RouterStatus(reason="pulling Envoy's image: 1 of 3 layers")
    tracker.set_envoy(running=False, problem="it cannot be pulled", failed=True)
    assert tracker.status(PLAIN) == RouterStatus(failed=True, reason="it cannot be pulled")


def test_used_configuration_is_reported() -> None:
    assert served(PLAIN).status(PLAIN) == RouterStatus(serving=True, http_port=80, challenges=frozenset({"token"}))
    assert served(SECURE).status(SECURE) == RouterStatus(
        serving=True, http_port=80, https_port=443, certificates={HOST: "ab"}, challenges=frozenset({"token"})
    )


@pytest.mark.parametrize(
    ("unused", "certificates", "challenges"),
    [
        ("listener_manager.lds", {}, frozenset({"token"})),
        ("http.http.rds.http", {HOST: "ab"}, frozenset()),
    ],
    ids=["certificate", "routes"],
)
def test_certificates_and_challenges_count_once_envoy_uses_them(
    unused: str, certificates: Mapping[str, str], challenges: frozenset[str]
) -> None:
    tracker = RouterStatusTracker(OPTIONS)
    tracker.set_envoy(running=True, problem="", failed=False)
    expected = write(tracker, SECURE)
    state = all_used(expected)
    paths = tracker.observe(EnvoyState({}, {**state.versions, unused: "former"}, BOTH), expected)
    tracker.endpoints_observed(frozenset())
    assert paths == {expected[unused].path}
    status = tracker.status(SECURE)
    assert (status.serving, status.certificates, status.challenges) == (False, certificates, challenges)
    assert tracker.is_unsettled(expected)


def test_change_in_progress_keeps_serving_status() -> None:
    tracker = served(SECURE)
    renewed = replace(SECURE, certificates={HOST: tls_certificate("cd")})
    expected = write(tracker, renewed)
    assert tracker.is_unsettled(expected)
    assert tracker.status(renewed).serving
    assert tracker.status(renewed).certificates == {}
    tracker.observe(all_used(expected), expected)
    tracker.endpoints_observed(frozenset())
    assert tracker.status(renewed).certificates == {HOST: "cd"}


def test_unconfirmed_endpoint_delays_serving() -> None:
    tracker = RouterStatusTracker(OPTIONS)
    tracker.set_envoy(running=True, problem="", failed=False)
    expected = write(tracker, PLAIN)
    tracker.observe(all_used(expected), expected)
    tracker.endpoints_observed(frozenset({REF}))
    assert not tracker.status(PLAIN).serving
    tracker.endpoints_observed(frozenset())
    assert tracker.status(PLAIN).serving


def test_problems_are_reported_beside_working_hosts() -> None:
    tracker = served(SECURE)
    tracker.ports = {443: "port 443 is taken"}
    tracker.conflicts = {REF: "host b belongs to another"}
    tracker.config_rejected("cannot bind")
    status = tracker.status(SECURE)
    assert (status.serving, status.failed) == (True, True)
    assert status.reason == (
        "host b belongs to another; port 443 is taken; Envoy does not accept its configuration: cannot bind"
    )
    # The problem of an unused port does not count.
    tracker.conflicts = {}
    assert "443" not in tracker.status(PLAIN).reason


def test_no_running_envoy_serves_nothing() -> None:
    tracker = served(SECURE)
    tracker.set_envoy(running=False, problem="", failed=False)
    assert tracker.status(SECURE) == RouterStatus(reason=NOT_ROUTED_YET)
    # The ports that clients are to use are known all the same.
    assert tracker.status(SECURE).configured_ports == (80, 443)


def test_missing_ports_come_with_a_fix() -> None:
    tracker = RouterStatusTracker(replace(OPTIONS, http_port=0, https_port=0))
    assert "--ingress-http-port" in tracker.status(PLAIN).reason
    assert tracker.status(PLAIN).failed
