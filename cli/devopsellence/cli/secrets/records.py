"""What a stored secret is, and what it becomes: pure functions over messages."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.age import Identity, SealError, is_recipient, seal
from devopsellence.api.v1.stored_pb2 import Secret, SecretVersion
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import REGISTRY, EnvironmentRef

#: How many values of a secret are kept, so that a rollback finds the one that its release refers to.
KEPT: Final = 10


@dataclass(frozen=True, order=True)
class SecretId:
    """A secret within an environment; ``service`` is :data:`REGISTRY` for the registry's password."""

    service: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} of {self.scope}"

    @property
    def scope(self) -> str:
        """Whose secret it is, in words."""
        return "the registry" if self.service == REGISTRY else self.service


class CannotDecrypt(Exception):
    """A version that must be read is not sealed for this identity."""

    def __init__(self, version: SecretVersion) -> None:
        super().__init__(f"version {version.version} is not sealed for this identity")
        self.version = version


def checked(key: str, secret: Secret) -> Secret:
    """``secret`` as it was read from ``key``.

    Raises:
        MalformedRecord: it has no version, or its versions do not rise.
    """
    numbers = [0, *(version.version for version in secret.versions)]
    if not secret.versions:
        raise MalformedRecord(key, "Secret", "it has no version")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise MalformedRecord(key, "Secret", "its versions do not rise from 1")
    return secret


def current(secret: Secret) -> SecretVersion:
    """The newest value; ``secret`` is a checked one."""
    return secret.versions[-1]


def find(secret: Secret, version: int) -> SecretVersion | None:
    """The version of that number; None when it is not kept (any more)."""
    return next((each for each in secret.versions if each.version == version), None)


def version_to_pin(secret: Secret, version: int) -> int:
    """The version that a release refers to when it asks for ``version``: that one if it is kept, else the current."""
    return version if find(secret, version) else current(secret).version


def new_version(
    value: bytes, number: int, recipients: Collection[str], set_at: Timestamp, set_by: str
) -> SecretVersion:
    """A version that holds ``value``, sealed for ``recipients``.

    Raises:
        SealError: nobody to seal it for, or it is too large.
    """
    return SecretVersion(
        version=number,
        age=seal(value, recipients),
        recipients=sorted(set(recipients)),
        set_at=set_at,
        set_by=set_by,
    )


def appended(
    before: Secret | None, ref: EnvironmentRef, secret: SecretId, version: SecretVersion, in_use: Collection[int] = ()
) -> Secret:
    """The record with one more version, of at most :data:`KEPT`: the oldest go first, but for those ``in_use``."""
    kept = list(before.versions) if before else []
    while len(kept) >= KEPT:
        kept.remove(next((each for each in kept if each.version not in in_use), kept[0]))
    return Secret(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        service=secret.service,
        name=secret.name,
        versions=[*kept, version],
    )


def holds_value(version: SecretVersion, identity: Identity, value: bytes) -> bool:
    """Whether ``version`` is known to hold ``value``: False also when ``identity`` cannot open it."""
    try:
        return identity.open(version.age) == value
    except SealError:
        return False


def lacks(secret: Secret, numbers: Collection[int], must: Set[str]) -> bool:
    """Whether one of the versions ``numbers`` is not sealed for all of ``must``."""
    return any(version.version in numbers and not must <= set(version.recipients) for version in secret.versions)


def reencrypted(
    secret: Secret, identity: Identity, recipients: Set[str], must: Set[str], needed: Collection[int]
) -> Secret:
    """The record with the versions that lack one of ``must`` sealed anew, for ``recipients`` as well as for before.

    Nobody is left out: who could open a value has seen it, and a node whose record cannot be read just now must not
    lose what it runs with. Versions outside ``needed`` that ``identity`` cannot open stay as they are.

    Raises:
        CannotOpen: one of ``needed`` cannot be opened.
    """
    after = Secret()
    after.CopyFrom(secret)
    for version in after.versions:
        if must <= set(version.recipients):
            continue
        try:
            value = identity.open(version.age)
        except SealError as error:
            if version.version in needed:
                raise CannotDecrypt(version) from error
            continue
        everybody = {*recipients, *filter(is_recipient, version.recipients)}
        version.age = seal(value, everybody)
        version.recipients[:] = sorted(everybody)
    return after
