"""Versions of secrets that a release names and that are no longer stored."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Registry, Secret, SecretVersion
from devopsellence.api.v1.workload_pb2 import SecretRef, Service
from devopsellence.cli.secrets.pins import named_but_gone, versions_gone
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.keys import REGISTRY, EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
WEB, PASSWORD = SecretId("web", "TOKEN"), SecretId(REGISTRY, "PASSWORD")


def stored(*numbers: int) -> Secret:
    return Secret(versions=[SecretVersion(version=number) for number in numbers])


@pytest.mark.parametrize(
    ("web", "password", "kept", "gone"),
    [
        pytest.param(2, 3, {WEB: stored(2, 3), PASSWORD: stored(3)}, set(), id="both stored"),
        pytest.param(0, 0, {WEB: stored(2, 3)}, set(), id="none named, as in a deploy"),
        pytest.param(1, 3, {WEB: stored(2, 3), PASSWORD: stored(3)}, {(WEB, 1)}, id="too old"),
        pytest.param(2, 3, {PASSWORD: stored(3)}, {(WEB, 2)}, id="secret deleted"),
        pytest.param(2, 3, {WEB: stored(4), PASSWORD: stored(4)}, {(WEB, 2), (PASSWORD, 3)}, id="both set again"),
    ],
)
def test_versions_no_longer_stored_are_found(
    web: int, password: int, kept: dict[SecretId, Secret], gone: set[tuple[SecretId, int]]
) -> None:
    services = [Service(name="web", secret_refs=[SecretRef(name="A", secret="TOKEN", version=web)])]
    registry = Registry(password_secret="PASSWORD", password_version=password)
    assert named_but_gone(services, [registry], kept) == gone
    assert named_but_gone(services, [], kept) == {each for each in gone if each[0] == WEB}


def test_error_names_every_version_that_is_gone() -> None:
    error = versions_gone(REF, [(WEB, 1), (PASSWORD, 3)])
    assert (error.code, error.exit_code) == ("secret_version_gone", 1)
    assert "TOKEN of web (version 1), PASSWORD of the registry (version 3)" in error.message
    assert len(error.findings) == 2
