"""Logins to registries."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Registry, RegistryLogin, Release
from devopsellence.api.v1.workload_pb2 import Image, Service
from devopsellence.registries import Login, login_for, logins, pull_login, registry_host

DIGEST = "@sha256:" + "a" * 64
APP = Registry(repository="r.example.com/shop", username="robot", password_secret="APP")
SAME = RegistryLogin(host="r.example.com", username="ann", password_secret="SAME")
LOCAL = RegistryLogin(host="localhost:5000", username="ann", password_secret="LOCAL")
HUB = RegistryLogin(host="docker.io", username="ann", password_secret="HUB")
ALL: list[Login] = [APP, SAME, LOCAL, HUB]


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("redis", "docker.io"),
        ("redis:7", "docker.io"),
        ("acme/search", "docker.io"),
        ("index.docker.io/acme/search", "docker.io"),
        ("docker.io/redis", "docker.io"),
        ("r.example.com/search", "r.example.com"),
        ("r.example.com:5000/team/search", "r.example.com:5000"),
        ("localhost/search", "localhost"),
        ("localhost:5000/search", "localhost:5000"),
        ("[fd00::1]:5000/search", "[fd00::1]:5000"),
    ],
)
def test_host_of_image_is_read_as_docker_does(name: str, host: str) -> None:
    assert registry_host(name) == host


@pytest.mark.parametrize(
    ("repository", "login"),
    [
        ("r.example.com/shop", APP),
        ("r.example.com/shop2", SAME),
        ("r.example.com/search", SAME),
        ("r.example.com:443/search", None),
        ("localhost:5000/search", LOCAL),
        ("redis", HUB),
        ("other.example.com/r.example.com/search", None),
    ],
)
def test_own_repository_precedes_its_host(repository: str, login: Registry | RegistryLogin | None) -> None:
    assert login_for(repository, ALL) == login


@pytest.mark.parametrize(
    ("image", "login"),
    [
        (Image(app=True), APP),
        (Image(app=True, reference="r.example.com/shop:1", pinned="r.example.com/shop" + DIGEST), APP),
        (Image(app=True, reference="localhost:5000/x:1"), LOCAL),
        (Image(app=True, reference="shop:1", pinned="sha256:" + "a" * 64), None),
        (Image(reference="r.example.com/search:1"), SAME),
        (Image(reference="localhost:5000/search"), LOCAL),
        (Image(reference="localhost:5000/search:1", pinned="localhost:5000/search" + DIGEST), LOCAL),
        (Image(reference="redis:7"), HUB),
        (Image(reference="quay.io/redis:7"), None),
    ],
)
def test_service_needs_the_login_for_its_image(image: Image, login: Registry | RegistryLogin | None) -> None:
    assert pull_login(Service(name="web", image=image), ALL, "r.example.com/shop") == login


def test_registry_without_password_is_no_login() -> None:
    assert logins(Release(registry=Registry(repository="r/shop"), registry_logins=[HUB])) == [HUB]
    assert logins(Release(registry=APP, registry_logins=[HUB])) == [APP, HUB]
    assert logins(Release()) == []
