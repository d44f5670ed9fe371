"""What is told of an environment, from what was written and what Envoy was seen to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from devopsellence.nodeagent.envoy.admin import Expected, Seen, expected
from devopsellence.nodeagent.envoy.config import files
from devopsellence.nodeagent.envoy.model import IngressOptions, Listen, Route, RouterStatus, Routing, Site
from devopsellence.nodeagent.ingress.status import NOT_YET, Standing
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.ingress.tls import tls_certificate

ENV = EnvironmentRef("acme", "shop", "production")
HOST = "a.example"
PLAIN = Site(ENV, (HOST,), (Route(HOST, "/", "web", "http"),), (), challenges={HOST: (("token", "answer"),)})
SECURE = replace(PLAIN, tls=True, certificates={HOST: tls_certificate()})
OPTIONS = IngressOptions()
BOTH = frozenset({80, 443})


def wrote(standing: Standing, site: Site) -> Mapping[str, Expected]:
    standing.wrote(Routing((site,)), {})
    return expected(files(Routing((site,)), Listen(80, 443), "/f"))


def all_used(found: Mapping[str, Expected], ports: frozenset[int] = BOTH) -> Seen:
    return Seen({}, {statistic: each.version for statistic, each in found.items()}, ports)


def served(site: Site) -> Standing:
    standing = Standing(OPTIONS)
    standing.envoy(running=True, problem="", failed=False)
    standing.saw(all_used(wrote(standing, site)), expected(files(Routing((site,)), Listen(80, 443), "/f")))
    standing.placed(frozenset())
    return standing


def test_before_envoy_was_seen_to_use_it() -> None:
    standing = Standing(OPTIONS)
    assert standing.of(PLAIN) == RouterStatus(reason=NOT_YET)
    standing.envoy(running=False, problem="pulling Envoy's image: 1 of 3 layers", failed=False)
    assert standing.of(PLAIN) == RouterStatus(reason="pulling Envoy's image: 1 of 3 layers")
    standing.envoy(running=False, problem="it cannot be pulled", failed=True)
    assert standing.of(PLAIN) == RouterStatus(failed=True, reason="it cannot be pulled")


def test_what_envoy_uses_is_told() -> None:
    assert served(PLAIN).of(PLAIN) == RouterStatus(serving=True, http_port=80, challenges=frozenset({"token"}))
    assert served(SECURE).of(SECURE) == RouterStatus(
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
def test_certificates_and_challenges_are_told_once_envoy_uses_them(
    unused: str, certificates: Mapping[str, str], challenges: frozenset[str]
) -> None:
    standing = Standing(OPTIONS)
    standing.envoy(running=True, problem="", failed=False)
    found = wrote(standing, SECURE)
    seen = all_used(found)
    paths = standing.saw(Seen({}, {**seen.versions, unused: "former"}, BOTH), found)
    standing.placed(frozenset())
    assert paths == {found[unused].path}
    status = standing.of(SECURE)
    assert (status.serving, status.certificates, status.challenges) == (False, certificates, challenges)
    assert standing.unsettled(found)


def test_a_change_under_way_is_not_told_and_a_new_certificate_only_once_it_is_used() -> None:
    standing = served(SECURE)
    renewed = replace(SECURE, certificates={HOST: tls_certificate("cd")})
    found = wrote(standing, renewed)
    assert standing.unsettled(found)
    assert standing.of(renewed).serving
    assert standing.of(renewed).certificates == {}
    standing.saw(all_used(found), found)
    standing.placed(frozenset())
    assert standing.of(renewed).certificates == {HOST: "cd"}


def test_an_endpoint_that_envoy_does_not_have_yet_is_waited_for() -> None:
    standing = Standing(OPTIONS)
    standing.envoy(running=True, problem="", failed=False)
    found = wrote(standing, PLAIN)
    standing.saw(all_used(found), found)
    standing.placed(frozenset({ENV}))
    assert not standing.of(PLAIN).serving
    standing.placed(frozenset())
    assert standing.of(PLAIN).serving


def test_what_is_wrong_is_told_beside_what_works() -> None:
    standing = served(SECURE)
    standing.ports = {443: "port 443 is taken"}
    standing.conflicts = {ENV: "host b belongs to another"}
    standing.refused("cannot bind")
    status = standing.of(SECURE)
    assert (status.serving, status.failed) == (True, True)
    assert status.reason == (
        "host b belongs to another; port 443 is taken; Envoy does not take its configuration: cannot bind"
    )
    # Another port's problem is none of a site that does not use it.
    standing.conflicts = {}
    assert "443" not in standing.of(PLAIN).reason


def test_an_envoy_that_has_gone_serves_nothing() -> None:
    standing = served(SECURE)
    standing.envoy(running=False, problem="", failed=False)
    assert standing.of(SECURE) == RouterStatus(reason=NOT_YET)


def test_without_ports_it_says_how_to_have_some() -> None:
    standing = Standing(replace(OPTIONS, http_port=0, https_port=0))
    assert "--ingress-http-port" in standing.of(PLAIN).reason
    assert standing.of(PLAIN).failed
