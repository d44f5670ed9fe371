"""What releases say about secrets."""

from __future__ import annotations

from contextlib import suppress

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.releases import newest
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef


def pinned(release: Release | None, secret: SecretId) -> frozenset[int]:
    """The versions of ``secret`` that ``release`` refers to; none where there is no release."""
    if release is None:
        return frozenset()
    if secret.service == REGISTRY:
        named = release.registry.password_secret == secret.name
        return frozenset({release.registry.password_version} if named else ())
    return frozenset(
        ref.version
        for service in release.services
        if service.name == secret.service
        for ref in service.secret_refs
        if ref.secret == secret.name
    )


def with_version(base: Release, secret: SecretId, version: int) -> Release:
    """The content of ``base``, referring to ``version`` of ``secret``."""
    after = Release()
    after.CopyFrom(base)
    if secret.service == REGISTRY:
        after.registry.password_version = version
        return after
    for service in after.services:
        for ref in service.secret_refs:
            if service.name == secret.service and ref.secret == secret.name:
                ref.version = version
    return after


async def newest_in_use(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> frozenset[int]:
    """The versions of ``secret`` that the newest release refers to; none where that cannot be read."""
    with suppress(MalformedRecord):
        return pinned(await newest(etcd, ref), secret)
    return frozenset()


async def highest_in_use(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> int:
    """The highest version of ``secret`` that any release refers to; 0 for none.

    A secret that was deleted and is set again goes on from there: the same number would be the same spec to an agent,
    which would keep the container with the old value.
    """
    releases = await Reader(etcd).under(etcd.keys.releases_prefix(ref), Release)
    return max((version for release in releases.values() for version in pinned(release, secret)), default=0)
