"""Edits of stored secrets: pure functions on messages."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.age import AgeIdentity, EncryptionError, encrypt, is_recipient
from devopsellence.api.v1.stored_pb2 import Secret, SecretVersion
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import REGISTRY, EnvironmentRef
from devopsellence.store.size import size_problem

#: Number of versions kept per secret, for rollbacks to releases with older versions.
KEPT: Final = 10


@dataclass(frozen=True, order=True)
class SecretId:
    """Name of a secret within an environment; ``service`` is :data:`REGISTRY` for the registry's password."""

    service: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} of {self.scope}"

    @property
    def scope(self) -> str:
        """Owner of the secret for messages: the service or the registry."""
        return "the registry" if self.service == REGISTRY else self.service


class CannotDecrypt(Exception):
    """This identity cannot decrypt a needed version."""

    def __init__(self, version: SecretVersion) -> None:
        super().__init__(f"this identity cannot decrypt version {version.version}")
        self.version = version


def checked(key: str, secret: Secret) -> Secret:
    """Return ``secret``, read from ``key``, after a check of its versions.

    Raises:
        MalformedRecord: there are no versions, or their numbers do not increase.
    """
    numbers = [0, *(version.version for version in secret.versions)]
    if not secret.versions:
        raise MalformedRecord(key, "Secret", "it has no version")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise MalformedRecord(key, "Secret", "its versions do not rise from 1")
    return secret


def current(secret: Secret) -> SecretVersion:
    """Return the newest version of a checked secret."""
    return secret.versions[-1]


def find(secret: Secret, version: int) -> SecretVersion | None:
    """Return the version with number ``version``; None for a version that is not kept."""
    return next((kept for kept in secret.versions if kept.version == version), None)


def version_to_pin(secret: Secret, version: int) -> int:
    """Return the version to pin in a release: ``version``, which must be kept, or for 0 the current version."""
    return version or current(secret).version


def new_version(
    value: bytes, number: int, recipients: Collection[str], set_at: Timestamp, set_by: str
) -> SecretVersion:
    """Return a version with ``value`` encrypted for ``recipients``.

    Raises:
        EncryptionError: no recipients, or the value is too large.
    """
    return SecretVersion(
        version=number,
        age=encrypt(value, recipients),
        recipients=sorted(set(recipients)),
        set_at=set_at,
        set_by=set_by,
    )


def appended(
    before: Secret | None, ref: EnvironmentRef, secret: SecretId, version: SecretVersion, in_use: Collection[int] = ()
) -> Secret:
    """Return the record with ``version`` added.

    Beyond :data:`KEPT`, and beyond the size that etcd takes, removes the oldest versions not ``in_use``.
    """
    kept = list(before.versions) if before else []
    while len(kept) >= KEPT:
        kept.remove(next((old for old in kept if old.version not in in_use), kept[0]))
    after = Secret(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        service=secret.service,
        name=secret.name,
        versions=[*kept, version],
    )
    return _fitting(after, in_use)


def holds_value(version: SecretVersion, identity: AgeIdentity, value: bytes) -> bool:
    """Return True if ``identity`` decrypts ``version`` to ``value``; False if it cannot decrypt it."""
    try:
        return identity.decrypt(version.age) == value
    except EncryptionError:
        return False


def lacks(secret: Secret, numbers: Collection[int], must: Set[str]) -> bool:
    """Return True if a version in ``numbers`` lacks a recipient of ``must``."""
    return any(version.version in numbers and not must <= set(version.recipients) for version in secret.versions)


def reencrypted(
    secret: Secret, identity: AgeIdentity, recipients: Set[str], must: Set[str], needed: Collection[int]
) -> Secret:
    """Return the record with all versions that lack a recipient of ``must`` re-encrypted for ``recipients`` as well.

    Existing recipients stay: they have already seen the value, and a node with a temporarily unreadable record must
    not lose access. Versions outside ``needed`` stay unchanged if ``identity`` cannot decrypt them.

    Raises:
        CannotDecrypt: ``identity`` cannot decrypt a version in ``needed``.
    """
    after = Secret()
    after.CopyFrom(secret)
    for version in after.versions:
        if must <= set(version.recipients):
            continue
        try:
            value = identity.decrypt(version.age)
        except EncryptionError as error:
            if version.version in needed:
                raise CannotDecrypt(version) from error
            continue
        everybody = {*recipients, *filter(is_recipient, version.recipients)}
        version.age = encrypt(value, everybody)
        version.recipients[:] = sorted(everybody)
    return _fitting(after, needed)


def _fitting(secret: Secret, needed: Collection[int]) -> Secret:
    """Return ``secret``, changed in place: without its oldest versions not ``needed`` if etcd would not take them."""
    for old in list(secret.versions)[:-1]:
        if old.version not in needed and size_problem(secret):
            secret.versions.remove(old)
    return secret
