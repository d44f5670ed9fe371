"""What is stored: reading it, setting a value, deleting it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from devopsellence.api.v1.stored_pb2 import Event, Secret, SecretVersion
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import records, releases
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import together
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.keys import REGISTRY, EnvironmentRef


@dataclass(frozen=True)
class StoredVersion:
    """The version that now is the current one; ``changed`` is False where it held the value already."""

    version: SecretVersion
    changed: bool


async def read(etcd: Etcd, ref: EnvironmentRef, wanted: Collection[SecretId]) -> dict[SecretId, Secret]:
    """Those of ``wanted`` that are stored.

    Raises:
        MalformedRecord: one of them cannot be read; names its key.
    """
    order = sorted(wanted)
    found = await together(etcd.get(etcd.keys.secret(ref, each.service, each.name)) for each in order)
    return {
        each: records.checked(item.key, decode(Secret, item.key, item.value))
        for each, item in zip(order, found, strict=True)
        if item is not None
    }


async def store(
    etcd: Etcd, ref: EnvironmentRef, secret: SecretId, value: bytes, *, me: OperatorIdentity, readers: Recipients
) -> StoredVersion:
    """Make ``value`` the current one, sealed for everybody in ``readers``.

    The current version stays when it is known to hold the same value; it is sealed anew if somebody is missing among
    its recipients.

    Raises:
        MalformedRecord: what is stored there cannot be read, so it is not overwritten.
        SealError: the value is too large.
    """
    key = etcd.keys.secret(ref, secret.service, secret.name)
    floor, in_use = await asyncio.gather(
        releases.highest_in_use(etcd, ref, secret), releases.newest_in_use(etcd, ref, secret)
    )
    stamp, ours = transaction.now(), set[str]()

    def edit(before: Secret | None) -> Secret:
        last = records.current(records.checked(key, before)) if before else None
        if before and last and records.holds_value(last, me.identity, value):
            return records.reencrypted(before, me.identity, readers.recipients, readers.recipients, ())
        number = max(last.version if last else 0, floor) + 1
        version = records.new_version(value, number, readers.recipients, stamp, transaction.who())
        ours.add(version.age)
        return records.appended(before, ref, secret, version, in_use)

    event = Event(
        severity=Event.INFO,
        code="secret_set",
        message=f"{transaction.who()} set secret {secret}",
        service="" if secret.service == REGISTRY else secret.service,
    )
    told = await transaction.event_put(etcd, ref, event)

    def also(after: Secret) -> list[Put]:
        return [told] if records.current(after).age in ours else []

    after = await transaction.change(etcd, key, Secret, edit, also=also)
    version = records.current(after)
    return StoredVersion(version, version.age in ours)


async def delete(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> None:
    """Delete the secret with all its versions, also one whose record cannot be read.

    Raises:
        CliError: ``secret_unknown``, ``busy``.
    """
    key = etcd.keys.secret(ref, secret.service, secret.name)
    event = Event(severity=Event.INFO, code="secret_deleted", message=f"{transaction.who()} deleted secret {secret}")
    await transaction.delete(etcd, key, await transaction.event_put(etcd, ref, event), unknown(ref, secret))


def flags(secret: SecretId) -> str:
    """How a command line names a secret."""
    return f"{secret.name} --registry" if secret.service == REGISTRY else f"{secret.name} --service {secret.service}"


def in_use(ref: EnvironmentRef, secret: SecretId, release: int) -> CliError:
    """The error for a secret that must not go because release ``release``, the newest, refers to it."""
    message = f"release {release} of {ref} refers to secret {secret}, so its containers could not be made anew"
    actions = [
        NextAction("take it out of secret_refs first, then", "devopsellence deploy"),
        NextAction("or delete it all the same", f"devopsellence secret delete {flags(secret)} --env {ref} --force"),
    ]
    return CliError("secret_in_use", message, next_actions=actions)


def unknown(ref: EnvironmentRef, secret: SecretId) -> CliError:
    """The error for a secret that is not stored."""
    action = NextAction("see which there are", f"devopsellence secret list --env {ref}")
    return CliError("secret_unknown", f"{ref} has no secret {secret}", next_actions=[action])
