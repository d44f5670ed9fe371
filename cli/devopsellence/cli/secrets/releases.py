"""Versions of secrets in releases."""

from __future__ import annotations

from collections.abc import Iterable

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.releases import readable_in_use
from devopsellence.registries import logins
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef


def pinned(release: Release | None, secret: SecretId) -> frozenset[int]:
    """Return the versions of ``secret`` in ``release``; empty for no release."""
    if release is None:
        return frozenset()
    if secret.service == REGISTRY:
        return frozenset(login.password_version for login in logins(release) if login.password_secret == secret.name)
    return frozenset(
        ref.version
        for service in release.services
        if service.name == secret.service
        for ref in service.secret_refs
        if ref.secret == secret.name
    )


def pinned_in(releases: Iterable[Release], secret: SecretId) -> frozenset[int]:
    """Return the versions of ``secret`` in any of ``releases``."""
    return frozenset(version for release in releases for version in pinned(release, secret))


def with_version(base: Release, secret: SecretId, version: int) -> Release:
    """Return a copy of ``base`` with ``version`` of ``secret``."""
    after = Release()
    after.CopyFrom(base)
    if secret.service == REGISTRY:
        for login in logins(after):
            if login.password_secret == secret.name:
                login.password_version = version
        return after
    for service in after.services:
        for ref in service.secret_refs:
            if service.name == secret.service and ref.secret == secret.name:
                ref.version = version
    return after


async def versions_in_use(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> frozenset[int]:
    """Return the versions of ``secret`` in the readable releases in use."""
    return pinned_in(await readable_in_use(Reader(etcd), ref), secret)


async def highest_in_use(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> int:
    """Return the highest version of ``secret`` in any release; 0 for none.

    A deleted secret that is set again continues from that number: with a reused number, the container spec would not
    change, and an agent would keep the container with the old value.
    """
    releases = await Reader(etcd).get_prefix(etcd.keys.releases_prefix(ref), Release)
    return max((version for release in releases.values() for version in pinned(release, secret)), default=0)
