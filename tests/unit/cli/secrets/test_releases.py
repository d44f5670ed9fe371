"""Versions of secrets in releases."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Registry, Release
from devopsellence.api.v1.workload_pb2 import SecretRef, Service
from devopsellence.cli.secrets import releases
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.keys import REGISTRY

WEB, PASSWORD = SecretId("web", "TOKEN"), SecretId(REGISTRY, "PASSWORD")


def release() -> Release:
    web = Service(name="web", secret_refs=[SecretRef(name="A", secret="TOKEN", version=2)])
    worker = Service(name="worker", secret_refs=[SecretRef(name="A", secret="TOKEN", version=5)])
    return Release(number=7, services=[web, worker], registry=Registry(password_secret="PASSWORD", password_version=3))


def test_release_lists_its_secret_versions() -> None:
    assert releases.pinned(release(), WEB) == {2}
    assert releases.pinned(release(), PASSWORD) == {3}
    assert releases.pinned(release(), SecretId(REGISTRY, "OTHER")) == frozenset()
    assert releases.pinned(release(), SecretId("web", "OTHER")) == frozenset()
    assert releases.pinned(None, WEB) == frozenset()


def test_versions_of_several_releases_are_joined() -> None:
    older = releases.with_version(release(), WEB, 1)
    assert releases.pinned_in([older, release(), Release(number=8)], WEB) == {1, 2}
    assert releases.pinned_in([], WEB) == frozenset()


def test_with_version_changes_only_that_secret() -> None:
    after = releases.with_version(release(), WEB, 3)
    assert releases.pinned(after, WEB) == {3}
    assert releases.pinned(after, SecretId("worker", "TOKEN")) == {5}
    assert releases.with_version(release(), PASSWORD, 4).registry.password_version == 4
    assert releases.with_version(release(), SecretId("web", "OTHER"), 9) == release()
