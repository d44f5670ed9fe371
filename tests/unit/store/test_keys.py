"""Building and parsing of keys; invalid names are rejected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.store.keys import PEERS, EnvironmentRef, InvalidName, Keys, check_name

KEYS = Keys()
ENV = EnvironmentRef("acme", "ShopApp", "production")
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


def test_keys_read_as_designed() -> None:
    assert KEYS.node("n1") == "/devopsellence/v1/nodes/n1"
    assert KEYS.heartbeat("n1") == "/devopsellence/v1/heartbeats/n1"
    assert KEYS.environment(ENV) == "/devopsellence/v1/environments/acme/ShopApp/production"
    assert KEYS.release(ENV, 42) == "/devopsellence/v1/releases/acme/ShopApp/production/0000000042"
    assert KEYS.rollout(ENV) == "/devopsellence/v1/rollouts/acme/ShopApp/production"
    assert KEYS.assignment("n1", ENV) == "/devopsellence/v1/assignments/n1/acme/ShopApp/production"
    assert KEYS.status("n1", ENV) == "/devopsellence/v1/status/n1/acme/ShopApp/production"
    assert KEYS.event(ENV, "e1") == "/devopsellence/v1/events/acme/ShopApp/production/e1"
    assert (
        KEYS.certificate(ENV, "app.example.com")
        == "/devopsellence/v1/certificates/acme/ShopApp/production/app.example.com"
    )
    assert KEYS.ingress("n1", ENV, PEERS) == "/devopsellence/v1/ingress/n1/acme/ShopApp/production/+peers"
    assert KEYS.host_claim("n1", "app.example.com") == "/devopsellence/v1/hosts/n1/app.example.com"
    assert KEYS.gateways == "/devopsellence/v1/access/gateways"
    assert KEYS.candidate(0x1F) == "/devopsellence/v1/election/controller/000000000000001f"


@given(node=NAMES, organization=NAMES, project=NAMES, environment=NAMES, number=st.integers(1, 10**10 - 1))
def test_built_keys_are_parsed_back(node: str, organization: str, project: str, environment: str, number: int) -> None:
    env = EnvironmentRef(organization, project, environment)
    keys = Keys("/else/where/")
    assert keys.parse_node(keys.node(node)) == node
    assert keys.parse_node(keys.heartbeat(node)) == node
    assert keys.parse_environment(keys.environment(env)) == env
    assert keys.parse_environment(keys.rollout(env)) == env
    assert keys.parse_release(keys.release(env, number)) == (env, number)
    assert keys.parse_assignment(keys.assignment(node, env)) == (node, env)
    assert keys.parse_assignment(keys.status(node, env)) == (node, env)
    assert keys.parse_event(keys.event(env, node)) == (env, node)
    for part in ("app.example.com", PEERS):
        assert keys.parse_ingress(keys.ingress(node, env, part)) == (node, env, part)
    assert keys.parse_host_claim(keys.host_claim(node, "xn--bcher-kva.de")) == (node, "xn--bcher-kva.de")
    assert keys.parse_certificate(keys.certificate(env, "xn--bcher-kva.de")) == (env, "xn--bcher-kva.de")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "é", "a" * 64, "a\0", "{}", "a:b", "\N{FULLWIDTH DIGIT ONE}"],
)
def test_invalid_names_are_kept_out_of_keys(name: str) -> None:
    with pytest.raises(InvalidName, match="is not a name"):
        check_name("node", name)
    with pytest.raises(InvalidName):
        KEYS.node(name)
    with pytest.raises(ValueError, match=r"name|organization/project/environment"):
        EnvironmentRef.parse(f"acme/shop/{name}")


@pytest.mark.parametrize(
    "key",
    [
        "/devopsellence/v1/nodes/",
        "/devopsellence/v1/nodes/a/b",
        "/devopsellence/v1/assignments/n1",
        "/devopsellence/v1/assignments/n1/acme/shop",
        "/devopsellence/v1/releases/acme/shop/production/42",
        "/devopsellence/v1/releases/acme/shop/production/0000000000",
        "/devopsellence/v1/releases/acme/shop/production/00000000\N{FULLWIDTH DIGIT FOUR}2",
        "/devopsellence/v1/environments/acme/shop/production/more",
        r"/devopsellence/v1/nodes/\xff",
        "/elsewhere/nodes/n1",
        "",
    ],
)
def test_key_of_another_kind_is_refused(key: str) -> None:
    for parse in (KEYS.parse_node, KEYS.parse_environment, KEYS.parse_release, KEYS.parse_assignment, KEYS.parse_event):
        with pytest.raises(ValueError):
            parse(key)


def test_releases_sort_by_number() -> None:
    numbers = [1, 9, 10, 99, 100, 4_000_000_000]
    assert sorted(KEYS.release(ENV, number) for number in numbers) == [KEYS.release(ENV, number) for number in numbers]


@pytest.mark.parametrize("number", [0, -1, 10**10])
def test_number_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="is not a release number"):
        KEYS.release(ENV, number)


@pytest.mark.parametrize("prefix", ["", "a/", "/a", "a"])
def test_prefix_begins_and_ends_with_a_slash(prefix: str) -> None:
    with pytest.raises(ValueError, match="must begin and end"):
        Keys(prefix)


@pytest.mark.parametrize(
    "host",
    [
        *("", "App.example.com", "a_b.example.com", "a..b", ".a", "a.", "-a.com", "a-.com", "a/b", "a:80", "*.a.com"),
        *("a\n", "b\xfccher.de", "a" * 64 + ".com", "a." * 127 + "com", "+peers"),
    ],
)
def test_invalid_hosts_are_kept_out_of_keys(host: str) -> None:
    with pytest.raises(InvalidName, match="host"):
        KEYS.certificate(ENV, host)
